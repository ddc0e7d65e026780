"""`mechguard vector`: info and export, of ours and of published directions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp import load
from interp.model.artifacts import origin
from probes.directions.directions import Direction

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
    from interp.model.sites import Site

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
