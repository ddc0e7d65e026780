"""What the part of a policy's file that describes its gate must hold."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.fields import BACKWARD, FLAG, NAME, POSITIVE, Fields, list_of
from interp.model.artifact_schemas import SITE, Schema, require_place, require_schema
from interp.model.sites import Site

_ALL: Fields = {"kind": NAME, "reads": list_of(SITE), "position": BACKWARD}
_SCHEMAS: Mapping[str, Schema] = {
    "open": Schema(_ALL, {}),
    "logistic": Schema(
        {**_ALL, "hard": FLAG}, {"coefficients": ("reads", "width"), "bias": (), "threshold": ()}
    ),
    "cosine": Schema(
        {**_ALL, "above": FLAG, "plain": FLAG},
        {"conditions": ("reads", "width"), "thresholds": ("reads",)},
    ),
    "controller": Schema(
        {
            **_ALL,
            **{"width": POSITIVE, "sites": POSITIVE, "hidden": POSITIVE},
            **{"squash": NAME, "cut": FLAG},
        },
        {
            "threshold": (),
            "hidden.weight": ("units", "features"),
            "hidden.bias": ("units",),
            "head.weight": ("outputs", "units"),
            "head.bias": ("outputs",),
        },
        {"centre": ("inputs",), "components": ("features", "inputs")},
    ),
}
_UNUSED = ("centre", "components")


def require_gate(
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    width: int,
    origin: Mapping[str, Any],
) -> None:
    """Check the description of a gate against its tensors and the policy that it belongs to.

    Args:
        description: as `Gate.describe` gave it.
        tensors: of the gate, without the prefix.
        width: of the policy.
        origin: of the policy.

    Raises:
        InputError: no such gate, or a field or tensor that is absent, of another type, or
            contradicts another one.
    """
    kind = str(description["kind"])
    if kind not in _SCHEMAS:
        raise InputError(f"there is no gate {kind!r:.40}; there are {', '.join(_SCHEMAS)}.")
    # A controller that does not compress its input has both tensors, empty.
    used = {
        name: tensor
        for name, tensor in tensors.items()
        if not (kind == "controller" and name in _UNUSED and tensor.shape == (0,))
    }
    try:
        lengths = require_schema(_SCHEMAS[kind], description, used)
        reads = [Site.parse(name) for name in description["reads"]]
        if kind == "controller":
            _require_sizes(description, lengths, len(reads))
        own = description.get("width", lengths.get("width", width))
        if own != width:
            raise ValueError(f"it is {own} wide, and the policy {width}")
        require_place({"origin": origin}, reads, width)
    except ValueError as error:
        raise InputError(
            f"the {kind} gate of this policy is incomplete or does not fit its tensors: {error}; "
            "save the policy anew."
        ) from error
    if kind == "controller" and any(tensors[name].dtype != torch.float32 for name in used):
        raise InputError("the controller of this policy is not in float32; save the policy anew.")


def _require_sizes(given: Mapping[str, Any], lengths: Mapping[str, int], reads: int) -> None:
    """Before a network of these sizes is made."""
    sizes = {
        "hidden": (given["hidden"], lengths["units"]),
        "sites": (given["sites"], lengths["outputs"] - 1),
        "width": (given["width"] * reads, lengths.get("inputs", lengths["features"])),
    }
    for name, (said, found) in sizes.items():
        if said != found:
            raise ValueError(f"its {name} come to {said}, and its tensors have {found}")
