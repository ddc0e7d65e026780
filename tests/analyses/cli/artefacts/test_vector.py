"""`mechguard vector`: info, export and import, of ours and of published directions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collected import planted
from safetensors.torch import save as serialised

from interp import load
from interp.model.origin import origin
from interp.model.sites import Site
from interp.resume.sealed_tensors import read_container
from probes.directions.directions import Direction
from steering.policy.policy import Policy

Run = Callable[..., Any]


def saved(folder: Path) -> Path:
    checkpoint = load("organism:chat")
    direction = Direction(
        vector=torch.arange(96.0),
        site="resid_pre",
        layer=1,
        position=-1,
        segment="post_instruction",
        method="difference in means",
        residual_norm=4.0,
        meta={"origin": origin(checkpoint)},
    )
    return direction.save(folder / "direction.safetensors")


def test_info_says_where_a_direction_belongs(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path)
    result = run("vector", "info", path)
    assert result.code == 0, result.err
    for words in ("direction", "resid_pre", "organism:chat", "post_instruction"):
        assert words in result.out
    (one,) = json.loads(run("vector", "info", path, "--json").out)
    assert one["kind"] == "direction" and one["layer"] == 1
    assert one["tensors"] == {"vector": [96]}


def test_a_published_folder_is_read_too(
    run: Run, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = reference("directions/gemma-2b-it")
    (one,) = json.loads(run("vector", "info", folder, "--json").out)
    assert (one["layer"], one["position"]) == (10, -2)
    out = tmp_path / "gemma.npy"
    assert run("vector", "export", folder, "--to", "npy", "--out", out).code == 0
    assert np.load(out).shape == (2048,)


def test_export_says_what_is_lost(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path)
    result = run("vector", "export", path, "--to", "lm-eval", "--out", tmp_path / "steer.pt")
    assert result.code == 0 and "does not say which weights" in result.out
    run("vector", "export", path, "--to", "mp3", "--out", tmp_path / "x").assert_refused(
        2, "there is no format 'mp3'"
    )
    run("vector", "info", tmp_path / "none").assert_refused(2, "does not exist")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:50])
    run("vector", "info", tmp_path / "cut").assert_refused(2, "is damaged")


def test_a_policy_is_shown_and_exported_with_what_it_loses(run: Run, tmp_path: Path) -> None:
    import steering

    checkpoint = load("organism:chat")
    vector = torch.randn(1, 96, generator=torch.Generator().manual_seed(0))
    policy = steering.act_add([Site("resid_pre", 2)], vector).bound(checkpoint)
    policy.save(tmp_path / "policy")
    (one,) = json.loads(run("vector", "info", tmp_path / "policy", "--json").out)
    assert one["kind"] == "policy"
    out = tmp_path / "steer.gguf"
    result = run("vector", "export", tmp_path / "policy", "--to", "gguf", "--out", out)
    assert result.code == 0, result.err
    assert out.stat().st_size > 0 and "does not hold" in result.out


def svec(path: Path, width: int, model_type: str) -> Path:
    directions = {"1": [0.5] * width, "2": [1.0] * width}
    path.write_text(json.dumps({"model_type": model_type, "directions": directions}))
    return path


def test_import_makes_a_policy_that_belongs_to_the_model(run: Run, tmp_path: Path) -> None:
    checkpoint = load("organism:chat")
    file = svec(tmp_path / "v.svec", 96, checkpoint.anatomy.model_type)
    out = tmp_path / "policy"
    arguments = ("vector", "import", file, "organism:chat", "--out", out)
    result = run(*arguments, "--strength", "2", "--layers", "2")
    assert result.code == 0, result.err
    assert "blocks.2.hook_resid_post, strength 2, bound to organism:chat" in result.out
    policy = Policy.load(out, checkpoint)
    assert policy.strength == 2.0 and policy.sites == (Site("resid_post", 2),)
    assert torch.equal(policy.directions, torch.ones(1, 96))
    back = tmp_path / "back.gguf"
    assert run("vector", "export", out, "--to", "gguf", "--out", back).code == 0
    assert run("vector", "import", back, "organism:chat", "--out", tmp_path / "again").code == 0
    again = Policy.load(tmp_path / "again", checkpoint)
    assert again.sites == policy.sites and torch.equal(again.directions, 2 * policy.directions)


def test_what_cannot_be_imported_is_told(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "policy"

    def refused(path: Path, *words: str, more: tuple[str, ...] = ()) -> None:
        run("vector", "import", path, "organism:chat", "--out", out, *more).assert_refused(
            2, *words
        )

    kind = load("organism:chat").anatomy.model_type
    refused(tmp_path / "none.gguf", "does not exist")
    refused(tmp_path / "x.npy", "vectors come as .gguf or .svec")
    refused(svec(tmp_path / "o.svec", 96, "other"), "was made for a other")
    refused(svec(tmp_path / "w.svec", 8, kind), "is 8 wide")
    good = svec(tmp_path / "g.svec", 96, kind)
    refused(good, "has no vector for layer 0; it has 1, 2", more=("--layers", "0-1"))
    refused(good, "there is no layer 9", more=("--layers", "9"))
    assert not out.exists()


def without_checksum(path: Path) -> bytes:
    """Rewrite an artefact as it was before there were checksums."""
    container = read_container(path)
    assert container is not None
    content: bytes = serialised(container.tensors, metadata={"mechguard": container.text})
    path.write_bytes(content)
    return content


def test_seal_writes_a_checksum_once(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path)
    good = Direction.load(path)
    without_checksum(path)
    result = run("vector", "info", "--seal", path)
    assert result.code == 0 and f"{path} is sealed." in result.out, result.err
    assert "has its checksums already" in run("vector", "info", "--seal", path).out
    assert torch.equal(Direction.load(path).vector, good.vector)
    assert Direction.load(path).describe() == good.describe()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    result = run("vector", "info", path)
    assert result.code == 2 and "its checksum does not match" in result.err


def test_seal_takes_policies_and_collections(run: Run, tmp_path: Path) -> None:
    checkpoint = load("organism:chat")
    sites, width = (Site("resid_post", 1),), checkpoint.anatomy.width
    policy = Policy("p", "actadd", sites, torch.ones(1, width), (1.0,)).bound(checkpoint)
    without_checksum(policy.save(tmp_path / "policy"))
    planted(tmp_path / "acts", n=12)
    result = run("vector", "info", "--seal", tmp_path / "policy", tmp_path / "acts")
    assert result.code == 0 and result.out.count("is sealed.") == 2
    assert run("vector", "info", tmp_path / "acts").out.count("checksums") == 1
    result = run("vector", "info", "--seal", tmp_path)
    assert result.code == 2 and "no artefact and no collection" in result.err


def test_a_lying_policy_is_not_sealed(run: Run, tmp_path: Path) -> None:
    checkpoint = load("organism:chat")
    sites, width = (Site("resid_post", 1),), checkpoint.anatomy.width
    policy = Policy("p", "actadd", sites, torch.ones(1, width), (1.0,)).bound(checkpoint)
    path = policy.save(tmp_path)
    container = read_container(path)
    assert container is not None
    text = container.text.replace('"kind": "open"', '"kind": "ajar"')
    path.write_bytes(serialised(container.tensors, metadata={"mechguard": text}))
    result = run("vector", "info", "--seal", path)
    assert result.code == 2 and "there is no gate 'ajar'" in result.err
    assert b"sha256" not in path.read_bytes()[:200]


def test_info_says_what_cannot_be_checked(run: Run, tmp_path: Path) -> None:
    content = {"model_type": "llama", "directions": {"1": [1.0, 2.0]}}
    (tmp_path / "v.svec").write_text(json.dumps(content))
    result = run("vector", "info", tmp_path / "v.svec")
    assert result.code == 0 and ".svec carries no checksum" in result.out
