"""Artefacts: they come back as they were, and belong to one checkpoint."""

from pathlib import Path

import pytest
import torch

from interp import Checkpoint, InputError, load
from interp.model.artifacts import Artifact, save
from interp.model.artifacts import load as load_artifact
from interp.model.origin import origin, require_origin


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("organism:chat")


def an_artifact(checkpoint: Checkpoint) -> Artifact:
    meta = {"site": "resid_pre", "layer": 2, "position": -1, "segment": "instruction"}
    meta |= {"method": "planted", "residual_norm": 3.0, "origin": origin(checkpoint)}
    return Artifact("direction", {"vector": torch.arange(96.0)}, meta)


def test_what_is_saved_comes_back(tmp_path: Path, checkpoint: Checkpoint) -> None:
    made = an_artifact(checkpoint)
    found = load_artifact(save(tmp_path / "new" / "d.safetensors", made), "direction")
    assert found.kind == "direction"
    assert found.meta["layer"] == 2
    assert found.meta["origin"] == origin(checkpoint)
    assert found.meta["versions"]["torch"] == torch.__version__
    assert all(torch.equal(found.tensors[name], made.tensors[name]) for name in made.tensors)
    require_origin("direction", found.meta, checkpoint)


def test_tensors_may_share_their_memory(tmp_path: Path) -> None:
    one = torch.arange(6.0).reshape(2, 3)
    meta = {"site": "resid_pre", "layers": [0, 1], "segment": "instruction", "label": "label"}
    meta |= {"positive": "yes", "threshold": 0.0, "aggregation": {"name": "last"}}
    meta |= {"origin": {"model": "m", "fingerprint": "f", "tokenizer_hash": None}}
    tensors = {"coef": one[..., None], "intercept": one[0, :1], "trained": torch.arange(3)}
    turned = {**tensors, "coef": one.T.contiguous().T[..., None]}
    for made in (tensors, turned):
        path = save(tmp_path / "p.safetensors", Artifact("probe", made, meta))
        found = load_artifact(path, "probe").tensors
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_numbers_that_are_none_are_not_saved(tmp_path: Path, checkpoint: Checkpoint) -> None:
    made = Artifact("direction", {"vector": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(InputError, match="vector of this direction is NaN"):
        save(tmp_path / "d.safetensors", made)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "kind", "format"])
def test_a_bad_file_is_refused(tmp_path: Path, checkpoint: Checkpoint, damage: str) -> None:
    path = save(tmp_path / "d.safetensors", an_artifact(checkpoint))
    kind = "direction"
    if damage == "missing":
        path = tmp_path / "none.safetensors"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "foreign":
        from safetensors.torch import save_file

        save_file({"x": torch.ones(2)}, path)
    elif damage == "kind":
        kind = "guard"
    else:
        content = path.read_bytes()
        path.write_bytes(content.replace(b'format_version\\": 1', b'format_version\\": 9'))
    said = {
        "missing": "does not exist",
        "cut": "is damaged",
        "foreign": "mechguard did not write it",
        "kind": "holds a direction, where a guard is needed",
        "format": "format version 9",
    }[damage]
    with pytest.raises(InputError, match=said):
        load_artifact(path, kind)
