"""What the file of a policy may not say of its gate: a table of lies for each kind."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import InputError
from interp.model.sites import Site
from steering.policy.gate_file import require_gate
from steering.runtime.gates import AlwaysOpen, ControllerGate, CosineGate, Gate, LogisticGate

WIDTH = 6
READS = [Site("resid_post", 0), Site("resid_post", 2)]
ORIGIN = {"width": WIDTH, "layers": 4}
GATES: dict[str, Gate] = {
    "open": AlwaysOpen(),
    "logistic": LogisticGate(READS, torch.ones(2, WIDTH), 0.5),
    "cosine": CosineGate(READS, torch.ones(2, WIDTH), 0.2),
    "controller": ControllerGate(READS, WIDTH, 3, 5, threshold=0.0),
    "compressed": ControllerGate(
        READS, WIDTH, 3, 5, centre=torch.zeros(12), components=torch.eye(12)[:4]
    ),
}
GONE = object()
LIES: list[tuple[str, str, Any, str]] = [
    ("open", "kind", "ajar", "there is no gate 'ajar'"),
    ("open", "position", 0, "position is 0"),
    ("open", "position", -1.5, "position is -1.5"),
    ("open", "position", GONE, "it lacks position"),
    ("open", "bias", torch.zeros(()), "has a tensor 'bias'"),
    ("logistic", "reads", ["resid_post:0"], "where 1 reads are needed"),
    ("logistic", "reads", ["resid_post:0", "resid_post:9"], "names layer 9 of a model of 4"),
    ("logistic", "reads", ["resid_post:0", "nowhere"], "reads is"),
    ("logistic", "hard", "false", "hard is 'false'"),
    ("logistic", "coefficients", torch.ones(2, 5), "are|it is 5 wide, and the policy 6"),
    ("logistic", "coefficients", torch.ones(2, 6).int(), "int32, where floating-point"),
    ("logistic", "coefficients", torch.full((2, 6), torch.inf), "NaN or infinity"),
    ("logistic", "threshold", torch.zeros(1), r"threshold has the shape \[1\]"),
    ("logistic", "bias", GONE, "lacks the tensor bias"),
    ("cosine", "above", None, "above is None"),
    ("cosine", "plain", GONE, "lacks plain"),
    ("cosine", "thresholds", torch.zeros(1), r"thresholds has the shape \[1\]"),
    ("cosine", "conditions", torch.ones(3, 6), "where 2 reads are needed"),
    ("controller", "hidden", 2**30, "hidden come to 1073741824, and its tensors have 5"),
    ("controller", "sites", 2, "sites come to 2, and its tensors have 3"),
    ("controller", "width", 7, "width come to 14, and its tensors have 12"),
    ("controller", "cut", 0, "cut is 0"),
    ("controller", "squash", 3, "squash is 3"),
    ("controller", "hidden.bias", torch.zeros(4), "where 5 units are needed"),
    ("controller", "head.weight", torch.zeros(4, 4), "where 5 units are needed"),
    ("controller", "hidden.weight", torch.zeros(5, 12).double(), "is not in float32"),
    ("controller", "head.bias", GONE, "lacks the tensor head.bias"),
    ("compressed", "components", torch.eye(12)[:3], r"components has the shape \[3, 12\]"),
    ("compressed", "centre", torch.zeros(11), "where 11 inputs are needed"),
]


@pytest.mark.parametrize("name", GATES)
def test_gates_that_were_described_pass(name: str) -> None:
    gate = GATES[name]
    require_gate(gate.describe(), gate.state_dict(), WIDTH, ORIGIN)


@pytest.mark.parametrize(
    ("name", "place", "value", "said"), LIES, ids=[f"{lie[0]} {lie[1]}" for lie in LIES]
)
def test_lies(name: str, place: str, value: Any, said: str) -> None:
    description = copy.deepcopy(GATES[name].describe())
    tensors = dict(GATES[name].state_dict())
    held: dict[str, Any] = description
    if isinstance(value, Tensor) or (value is GONE and place in tensors):
        held = tensors
    if value is GONE:
        del held[place]
    else:
        held[place] = value
    with pytest.raises(InputError, match=said):
        require_gate(description, tensors, WIDTH, ORIGIN)
