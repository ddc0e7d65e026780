"""Vectors of others: right ones come in at their layer, damaged ones are refused."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from policies import post, tiny_model

from interp.errors import InputError
from interp.model.sites import Site
from steering.policy.importing import read_vectors
from steering.runtime.span import Span


def svec(path: Path, **change: object) -> Path:
    content = {
        "model_type": "llama",
        "directions": {"2": [1.0] * 32, "1": [0.5] * 32},
        "explained_variances": {"2": 0.4, "1": 0.3},
    }
    path.write_text(json.dumps(content | change))
    return path


def test_an_svec_file(tmp_path: Path) -> None:
    checkpoint = tiny_model("llama").checkpoint
    width = checkpoint.anatomy.width
    path = svec(tmp_path / "v.svec", directions={"2": [1.0] * width, "1": [0.5] * width})
    found = read_vectors(path)
    assert found.layers == (1, 2) and found.model_type == "llama"
    assert torch.equal(found.vectors[0], torch.full((width,), 0.5))
    policy = found.policy(checkpoint, 3.0, layers=[2])
    assert policy.sites == tuple(post(2)) and policy.strength == 3.0
    assert policy.meta["origin"]["fingerprint"] == checkpoint.fingerprint
    with pytest.raises(InputError, match="no vector for layer 3; it has 1, 2"):
        found.policy(checkpoint, layers=[3])
    with pytest.raises(InputError, match="wide"):
        read_vectors(svec(tmp_path / "w.svec", directions={"1": [1.0] * (width + 1)})).policy(
            checkpoint
        )
    with pytest.raises(InputError, match="made for a llama"):
        found.policy(tiny_model("gpt2").checkpoint)


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_vectors(tmp_path / "none.gguf")
    with pytest.raises(InputError, match=r"vectors come as \.gguf or \.svec"):
        read_vectors(tmp_path / "x.pt")
    for name, content in (("a.svec", "{"), ("b.svec", "{}"), ("c.gguf", "GGUF"), ("d.gguf", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="damaged or no"):
            read_vectors(tmp_path / name)
    for directions, words in (
        ({"1": [1.0], "2": [1.0, 2.0]}, "one width"),
        ({}, "one width"),
        ({"1": [float("nan")]}, "NaN"),
        ({"1": [[1.0]]}, "damaged"),
    ):
        with pytest.raises(InputError, match=words):
            read_vectors(svec(tmp_path / "e.svec", directions=directions))


def test_a_gguf_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("direction.1", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="not of a control"):
        read_vectors(path)


def published(folder: Path, width: int) -> Path:
    """A folder of a direction as `refusal_direction` releases it: 2 positions, 3 layers."""
    folder.mkdir()
    candidates = torch.arange(2 * 3 * width, dtype=torch.float64).reshape(2, 3, width)
    torch.save(candidates, folder / "mean_diffs.pt")
    torch.save(candidates[-1, 2], folder / "direction.pt")
    (folder / "direction_metadata.json").write_text(json.dumps({"pos": -1, "layer": 2}))
    return folder


def test_a_published_direction_is_added_at_the_input_of_its_block(tmp_path: Path) -> None:
    checkpoint = tiny_model("llama").checkpoint
    width = checkpoint.anatomy.width
    found = read_vectors(published(tmp_path / "direction", width))
    assert found.model_type is None and found.sites == (Site("resid_pre", 2),)
    policy = found.policy(checkpoint, 0.5)
    assert policy.sites == found.sites and policy.span == Span.everything()
    assert torch.equal(policy.directions[0], torch.arange(5.0 * width, 6.0 * width))
    with pytest.raises(InputError, match="does not hold the three files of a published direction"):
        read_vectors(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"model_type": "llama", "directions": {"1": [1.0], "1": [2.0]}}', "key '1' twice"),
        ('{"model_type": "llama", "directions": {"01": [1.0]}}', "'01' is no number of a layer"),
        ('{"model_type": "llama", "directions": {"-1": [1.0]}}', "'-1' is no number of a layer"),
        ('{"model_type": "llama", "directions": {"1": [1.0, "2"]}}', "no list of finite numbers"),
        ('{"model_type": "llama", "directions": {"1": [true]}}', "no list of finite numbers"),
        ('{"model_type": "llama", "directions": [[1.0]]}', "directions is"),
        ('{"model_type": null, "directions": {"1": [1.0]}}', "model_type is None"),
        ('{"model_type": "llama", "directions": {"1": [1e39]}}', "NaN or infinite"),
        ('{"model_type": "llama", "directions": {"1": []}, "x": [NaN]}', "NaN, which is no number"),
        ("[1]", "holds no JSON object"),
    ],
)
def test_svec_files_that_lie(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "v.svec").write_text(content)
    with pytest.raises(InputError, match=said):
        read_vectors(tmp_path / "v.svec")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mean_diffs.pt", torch.zeros(3, 4), "mean_diffs.pt is no tensor of floats with 3 axes"),
        ("mean_diffs.pt", torch.zeros(2, 3, 4).long(), "no tensor of floats"),
        ("mean_diffs.pt", torch.full((2, 3, 4), torch.nan), "empty, NaN or infinite"),
        ("mean_diffs.pt", {"vector": torch.zeros(4)}, "no tensor of floats"),
        ("direction.pt", torch.zeros(5), "direction.pt is 5 wide, and mean_diffs.pt 4"),
        ("direction.pt", torch.zeros(4), "is not the candidate at layer 2"),
        ("direction.pt", Path("x"), "three files of a published direction"),
        ("direction_metadata.json", {"pos": -1, "layer": 2.5}, "layer is 2.5"),
        ("direction_metadata.json", {"pos": 1, "layer": 2}, "pos is 1"),
        ("direction_metadata.json", {"pos": -1, "layer": 7}, "no direction at layer 7"),
        ("direction_metadata.json", [1], "no JSON object"),
    ],
)
def test_published_directions_that_lie(tmp_path: Path, name: str, value: object, said: str) -> None:
    folder = published(tmp_path / "direction", 4)
    if name.endswith(".pt"):
        torch.save(value, folder / name)
    else:
        (folder / name).write_text(json.dumps(value))
    with pytest.raises(InputError, match=said):
        read_vectors(folder)
