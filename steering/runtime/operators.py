"""What a policy does to the state of one token: add, add relative to its norm, turn, or map.

Edits compute in at least float32 and return the type of the states. What does not depend on the
states is worked out beforehand, when a gate has decided: the direction as an operator uses it, and
the move of each row, so that a decode step does as little as it can. Scale 0 need not return the
very bits; the runtime selects closed rows.
"""

from typing import Literal, assert_never, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.interventions.hooks import wide

Operator = Literal["add", "relative", "rotate", "map"]
States = Float[Tensor, "rows tokens width"]
Move = Float[Tensor, "rows 1 width"] | Float[Tensor, "rows 1 1"]


def prepared(operator: Operator, direction: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    """The direction as an operator uses it: of length 1 where its length does not matter."""
    match operator:
        case "relative" | "rotate":
            unit: Tensor = direction / direction.norm()
            return unit
        case "add" | "map":
            return direction
        case _:
            assert_never(operator)


def move(
    operator: Operator, direction: Float[Tensor, " width"], scale: Float[Tensor, " rows"]
) -> Move:
    """What each row is moved by: its scale times the prepared direction; or its angle."""
    each = scale[:, None, None]
    match operator:
        case "rotate":
            return each
        case "add" | "relative" | "map":
            return each * direction
        case _:
            assert_never(operator)


def operate(
    operator: Operator,
    x: States,
    direction: Float[Tensor, " width"],
    moved_by: Move,
    reader: Float[Tensor, " width"] | None = None,
    keep_norm: bool = False,
) -> States:
    """Apply an operator to every token; v is the direction and s the scale of a row.

    - `add`: x + s·v, with v of its raw length.
    - `relative`: x + s·‖x‖·v/‖v‖, so that s means the same at every layer and model.
    - `rotate`: x turned by s radians towards v in the plane of both, its norm kept, and never past
      v (nor, for s < 0, past −v).
    - `map`: x + s·v·(c·x) with the reader c, a map of rank one.

    Args:
        operator: which.
        x: states.
        direction: as `prepared` made it.
        moved_by: of each row, as `move` made it.
        reader: c, for `map`.
        keep_norm: rescale the result to the norm of x.
    """
    wider = wide(x)
    moved: Tensor
    match operator:
        case "add":
            moved = wider + moved_by
        case "relative":
            moved = torch.addcmul(wider, moved_by, _length(wider))
        case "rotate":
            moved = _rotated(wider, direction, moved_by)
        case "map":
            assert reader is not None  # a policy that maps has readers
            moved = torch.addcmul(wider, moved_by, (wider @ reader.to(wider.dtype))[..., None])
        case _:
            assert_never(operator)
    if keep_norm:
        moved = moved * (_norm(wider) / _norm(moved))
    return moved.to(x.dtype)


def _rotated(x: Tensor, unit: Tensor, angle: Tensor) -> Tensor:
    size = _norm(x)
    along = x / size
    towards = unit * torch.sign(angle)
    cosine = (along @ unit)[..., None] * torch.sign(angle)
    across = towards - cosine * along
    # Where x already points along v there is no plane to turn in, and nowhere to go.
    across = across / _norm(across)
    turn = torch.minimum(angle.abs(), torch.acos(cosine.clamp(-1, 1)))
    return size * (torch.cos(turn) * along + torch.sin(turn) * across)


def _length(x: Tensor) -> Tensor:
    """Of every token's state; without the way round through `Tensor.norm`, which decode notices."""
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return size


def _norm(x: Tensor) -> Tensor:
    return _length(x).clamp_min(torch.finfo(x.dtype).tiny)


def require_operator(name: str) -> Operator:
    """Check the name of an operator.

    Raises:
        InputError: there is no such operator.
    """
    for known in get_args(Operator):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"there is no operator {name!r}; there are {', '.join(get_args(Operator))}.")
