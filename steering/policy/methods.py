"""Constructors of policies that are not trained, and the split of a stored linear map."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.model.sites import Site
from steering.policy.policy import Policy
from steering.runtime.gates import AlwaysOpen, Gate
from steering.runtime.span import Span

Vectors = Float[Tensor, "sites width"]


def angular(
    sites: Sequence[Site],
    directions: Vectors,
    angle: float,
    gate: Gate | None = None,
    span: Span | None = None,
    **meta: Any,
) -> Policy:
    """Turn states towards v by an angle, keeping their norm.

    A norm-preserving rotation in the plane of the state and v. (Angular steering as published
    turns within one fixed plane to a target angle, which has no strength at which it does nothing.)

    Args:
        sites: where.
        directions: v; its length does not matter.
        angle: in radians; never turns past v.
        gate: decides for every row; without one all rows are turned.
        span: which tokens; from the last prompt token, or the gate's decision token, on.
        **meta: provenance.
    """
    gate = AlwaysOpen() if gate is None else gate
    return Policy(
        "angular",
        "angular",
        tuple(sites),
        directions,
        (1.0,) * len(sites),
        gate=gate,
        span=span or Span.onward(gate.position),
        operator="rotate",
        strength=angle,
        meta=meta,
    )


def rank_one(
    matrices: Float[Tensor, "sites width width"], tolerance: float = 1e-3
) -> tuple[Vectors, Vectors]:
    """Directions r and readers c of matrices Δ = r cᵀ.

    Raises:
        InputError: a matrix has more in it than one direction and one reader.
    """
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    rest = values[:, 1:].norm(dim=-1) / values[:, 0].clamp_min(1e-30)
    if bool((rest > tolerance).any()):
        raise InputError(
            f"matrix {int(rest.argmax())} is not of rank one (the rest is "
            f"{float(rest.max()):.2g} of its largest part), so it is no map onto a single refusal "
            "vector."
        )
    size = values[:, :1].sqrt()
    return (left[:, :, 0] * size).float(), (right[:, 0] * size).float()
