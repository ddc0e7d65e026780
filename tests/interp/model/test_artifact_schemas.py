"""A table of lies for each kind of artefact: what a description may not say of its tensors."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.model.artifact_schemas import SCHEMAS, require_valid

ORIGIN = {
    "model": "m",
    "revision": None,
    "fingerprint": "f",
    "tokenizer_hash": None,
    "model_type": "llama",
    "dtype": "float32",
    "width": 8,
    "layers": 4,
}
DIRECTION = {
    "site": "resid_pre",
    "layer": 2,
    "position": -1,
    "segment": "instruction",
    "method": "planted",
    "residual_norm": 3.0,
    "norm": 8**0.5,
}
PROBE = {
    "site": "mlp_out",
    "segment": "last",
    "layers": [0, 2],
    "label": "label",
    "positive": "yes",
    "threshold": 0.5,
    "aggregation": {"name": "last"},
}
GUARD = {
    "site": "resid_post",
    "segment": "t_inst",
    "method": "centred",
    "layers": [1, 2],
    "cosine": True,
    "bias": 0.0,
    "threshold": {
        "value": 0.1,
        "wanted_fpr": 0.01,
        "fpr": 0.02,
        "fpr_interval": [0.0, 0.1],
        "benign": 300,
    },
    "template": {},
    "platt": {"slope": 1.0, "intercept": 0},
    "record": {"seed": 0},
    "evaluation": None,
}
POLICY = {
    "name": "p",
    "method": "actadd",
    "sites": ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.3.hook_resid_post"],
    "span": [-1, None, 0],
    "operator": "add",
    "strength": 1.0,
    "keep_norm": False,
    "gate": {"kind": "open", "reads": [], "position": -1},
}
GOOD: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {
    "direction": (DIRECTION, {"vector": torch.ones(8)}),
    "probe": (
        PROBE,
        {
            "coef": torch.ones(2, 8, 1),
            "intercept": torch.ones(1),
            "trained": torch.arange(0),
        },
    ),
    "guard": (GUARD, {"weights": torch.ones(2, 8), "centres": torch.zeros(2, 8)}),
    "policy": (POLICY, {"directions": torch.ones(3, 8), "weights": torch.ones(3)}),
}
GONE = object()

# Kind, the field (dots lead inside) or tensor, what it becomes, and what is said.
LIES: list[tuple[str, str, Any, str]] = [
    ("direction", "site", "resid_past", "'resid_past' is not a site"),
    ("direction", "site", 3, "site is 3, where a name"),
    ("direction", "site", "embed", "'embed' is not a site of a layer"),
    ("direction", "layer", -1, "layer is -1, where an integer from 0"),
    ("direction", "layer", 99, "names layer 99 of a model of 4"),
    ("direction", "layer", True, "layer is True, where an integer"),
    ("direction", "layer", 2.0, "layer is 2.0, where an integer"),
    ("direction", "layer", 10**30, "layer is 10+, where an integer"),
    ("direction", "position", 0, "position is 0, where a position counted back"),
    ("direction", "position", "-1", "position is '-1', where"),
    ("direction", "residual_norm", None, "residual_norm is None"),
    ("direction", "residual_norm", float("nan"), "residual_norm is nan"),
    ("direction", "norm", 99.0, "has the length 2.828, and its header says 99"),
    ("direction", "method", GONE, "it lacks method, text"),
    ("direction", "origin", [], "origin is \\[\\], where an object"),
    ("direction", "origin.width", 64, "are 8 wide, and the model that it names 64"),
    ("direction", "origin.layers", "4", "origin.layers is '4'"),
    ("direction", "origin.fingerprint", GONE, "it lacks origin.fingerprint"),
    ("direction", "origin.identity", "x", "origin.identity is 'x', where an object"),
    ("direction", "origin.identity", {"weights": 3}, "origin.identity.weights is 3"),
    ("direction", "site", "9" * 5000, "site is '9+…, where a name of at most 200"),
    ("direction", "versions", {"torch": 2}, "versions is .*, where an object of versions"),
    ("direction", "vector", GONE, "lacks the tensor vector"),
    ("direction", "vector", torch.ones(8, dtype=torch.int64), "int64, where floating-point"),
    ("direction", "vector", torch.ones(2, 8), r"shape \[2, 8\], where \[width\]"),
    ("direction", "vector", torch.ones(0), "where at least 1 width"),
    ("direction", "vector", torch.full((8,), torch.nan), "vector holds NaN"),
    ("direction", "more", torch.ones(1), "has a tensor 'more'"),
    ("probe", "layers", [0, 2, 3], r"coef has the shape \[2, 8, 1\], where 3 layers"),
    ("probe", "layers", [], "layers is \\[\\], where a list of 1 or more"),
    ("probe", "layers", [0, -2], "layers is"),
    ("probe", "layers", [0, 7], "names layer 7 of a model of 4"),
    ("probe", "layers", [None, 0], "'mlp_out' is not a site outside the layers"),
    ("probe", "layers", 0, "layers is 0, where a list"),
    ("probe", "threshold", float("inf"), "threshold is inf"),
    ("probe", "threshold", "0", "threshold is '0', where a finite number"),
    ("probe", "aggregation", "last", "aggregation is 'last', where an object"),
    ("probe", "aggregation", {}, "lacks aggregation.name"),
    ("probe", "coef", torch.ones(2, 6, 1), "are 6 wide, and the model that it names 8"),
    ("probe", "intercept", torch.ones(2), r"intercept has the shape \[2\], where 1 channels"),
    ("probe", "trained", torch.ones(3), "trained is of torch.float32, where integers"),
    ("guard", "layers", [1], "weights has the shape"),
    ("guard", "layers", [1, 4], "names layer 4 of a model of 4"),
    ("guard", "cosine", 1, "cosine is 1, where true or false"),
    ("guard", "bias", "0", "bias is '0'"),
    ("guard", "threshold.value", None, "threshold.value is None"),
    ("guard", "threshold.fpr", 1.5, "threshold.fpr is 1.5, where a number from 0 to 1"),
    ("guard", "threshold.fpr_interval", [0.1], "threshold.fpr_interval is"),
    ("guard", "threshold.benign", -1, "threshold.benign is -1"),
    ("guard", "platt.slope", "x", "platt.slope is 'x'"),
    ("guard", "platt", [1, 2], "platt is"),
    ("guard", "template", None, "template is None"),
    ("guard", "record", 3, "record is 3"),
    ("guard", "centres", torch.ones(2, 7), r"centres has the shape \[2, 7\], where 8 width"),
    ("guard", "weights", torch.ones(2, 8).long(), "weights is of torch.int64"),
    ("policy", "sites", POLICY["sites"][:2], "where 2 sites are needed"),
    ("policy", "sites", ["resid_post:1"] * 2 + ["blocks.9.hook_mlp"], "sites is"),
    ("policy", "sites", [], "sites is \\[\\]"),
    ("policy", "sites", ["resid_post:1", "resid_post:2", "resid_post:40"], "names layer 40"),
    ("policy", "span", [0, None], "span is"),
    ("policy", "span", [0.5, None, 0], "span is"),
    ("policy", "span", [None, None, -1], "span is"),
    ("policy", "strength", "1", "strength is '1'"),
    ("policy", "strength", float("nan"), "strength is nan"),
    ("policy", "keep_norm", "no", "keep_norm is 'no'"),
    ("policy", "gate", "open", "gate is 'open'"),
    ("policy", "gate.kind", 3, "gate.kind is 3"),
    ("policy", "gate.reads", "all", "gate.reads is 'all'"),
    ("policy", "residual_norms", [1.0, -1.0], "residual_norms is"),
    ("policy", "weights", torch.ones(2), r"weights has the shape \[2\], where 3 sites"),
    ("policy", "weights", torch.ones(3, dtype=torch.bool), "weights is of torch.bool"),
    ("policy", "directions", torch.ones(3, 32), "are 32 wide, and the model that it names 8"),
    ("policy", "readers", torch.ones(3, 9), r"readers has the shape \[3, 9\], where 8 width"),
]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_good_ones_pass(kind: str) -> None:
    meta, tensors = GOOD[kind]
    require_valid(kind, meta, tensors)
    require_valid(kind, meta | {"origin": ORIGIN, "versions": {"torch": "2"}, "own": 1}, tensors)


@pytest.mark.parametrize(
    ("kind", "place", "value", "said"), LIES, ids=[f"{lie[0]} {lie[1]}" for lie in LIES]
)
def test_lies(kind: str, place: str, value: Any, said: str) -> None:
    meta, tensors = copy.deepcopy(GOOD[kind])
    meta["origin"] = dict(ORIGIN)
    held: dict[str, Any] = meta
    if isinstance(value, Tensor) or place in tensors:
        held = tensors
    *outer, name = place.split(".")
    for key in outer:
        held = held[key]
    if value is GONE:
        del held[name]
    else:
        held[name] = value
    with pytest.raises(ValueError, match=said):
        require_valid(kind, meta, tensors)
