"""Directions in the formats of others: read back as the other tool reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import InputError, load
from probes.directions.directions import Direction
from probes.directions.export import FORMATS, export


def a_direction(**changed: Any) -> Direction:
    given: dict[str, Any] = {
        "vector": torch.randn(96, generator=torch.Generator().manual_seed(0)),
        "site": "resid_pre",
        "layer": 2,
        "position": -1,
        "segment": "post_instruction",
        "method": "difference in means",
        "residual_norm": 5.0,
        "meta": {"origin": {"model": "organism:chat"}},
    }
    return Direction(**{**given, **changed})


def test_the_steered_file_does_what_adding_the_direction_does(tmp_path: Path) -> None:
    from interp.interventions.edits_by_site import add_vector
    from interp.model.sites import Site

    direction = a_direction()
    path = export(direction, "lm-eval", tmp_path / "steer.pt")
    config = torch.load(path, weights_only=True)  # as the harness reads it
    (hookpoint,) = config
    entry = config[hookpoint]
    assert entry["action"] == "add" and entry["steering_coefficient"] == 1.0
    checkpoint = load("organism:chat")
    module = checkpoint.decoder.get_submodule(hookpoint)
    ids = torch.tensor([[1, 20, 30, 40]])

    def hook(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + entry["steering_vector"], *output[1:])
        return output + entry["steering_vector"]

    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        theirs = checkpoint.model(ids).logits
        handle.remove()
        with add_vector(checkpoint, direction.vector, Site("resid_pre", direction.layer)):
            ours = checkpoint.model(ids).logits
    torch.testing.assert_close(theirs, ours)


def test_the_other_formats_hold_the_vector(tmp_path: Path) -> None:
    direction = a_direction()
    array = np.load(export(direction, "npy", tmp_path / "d.npy"))
    assert np.array_equal(array, direction.vector.numpy())
    body = json.loads(export(direction, "neuronpedia", tmp_path / "d.json").read_text())
    assert body["vector"] == pytest.approx(direction.vector.tolist())
    assert (body["modelId"], body["layerNumber"], body["hookType"]) == (
        "organism:chat",
        2,
        "hook_resid_pre",
    )


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resid_pre of layer 0 is none"):
        export(a_direction(layer=0), "lm-eval", tmp_path / "x")
    with pytest.raises(InputError, match="not of attn_out"):
        export(a_direction(site="attn_out"), "neuronpedia", tmp_path / "x")
    with pytest.raises(InputError, match="there are lm-eval, neuronpedia, npy"):
        export(a_direction(), "gguf", tmp_path / "x")
    assert list(tmp_path.iterdir()) == [] and len(FORMATS) == 3
