"""The published ways to steer, as policies.

Each constructor says where the method comes from and where ours differs. Directions, readers and
gates are made elsewhere; these only put them together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.model.sites import Site
from steering.policy.gates import AlwaysOpen, ControllerGate, CosineGate, Gate
from steering.policy.policy import Policy, Span

Vectors = Float[Tensor, "sites width"]


def act_add(
    sites: Sequence[Site],
    directions: Vectors,
    strength: float = 1.0,
    span: Span | None = None,
    **meta: Any,
) -> Policy:
    """Plain addition of α·v, without a gate.

    Activation addition after Arditi et al. (arXiv 2406.11717), §2.4, with v the raw difference in
    means at one layer, and CAA (Rimsky et al., arXiv 2312.06681), which adds at every token behind
    the prompt; the span chooses. By default from the last prompt token on.
    """
    return Policy(
        "actadd",
        "actadd",
        tuple(sites),
        directions,
        (1.0,) * len(sites),
        span=span or Span.onward(),
        strength=strength,
        meta=meta,
    )


def cast(
    sites: Sequence[Site],
    directions: Vectors,
    gate: CosineGate,
    strength: float = 1.0,
    *,
    skew: bool = False,
    keep_norm: bool = False,
    **meta: Any,
) -> Policy:
    """Addition where a condition holds, decided for each row.

    Lee et al. (CAST, arXiv 2409.05907), §3. The published code reads behaviour vectors at the
    output of a block and adds them at its input, one layer earlier than where they were read;
    `skew` does the same, and moves a `resid_post` site to `resid_pre` of its layer. It steers all
    tokens of the prompt; ours starts at the decision token, because those before it cannot know.

    Args:
        sites: where the vectors were read.
        directions: behaviour vectors.
        gate: the condition.
        strength: α.
        skew: add at the input of the layer at whose output a vector was read.
        keep_norm: rescale to the norm before (the published code's optional safeguard).
        **meta: provenance.
    """
    places = tuple(Site("resid_pre", s.layer) if skew else s for s in sites)
    return Policy(
        "cast",
        "cast",
        places,
        directions,
        (1.0,) * len(places),
        gate=gate,
        span=Span.onward(gate.position),
        strength=strength,
        keep_norm=keep_norm,
        meta={**meta, "skew": skew},
    )


def alphasteer(
    sites: Sequence[Site],
    directions: Vectors,
    readers: Vectors,
    strength: float = 1.0,
    span: Span | None = None,
    **meta: Any,
) -> Policy:
    """Addition of Δ h, where Δ was fitted to vanish on benign states: h' = h + λ Δ h.

    AlphaSteer (arXiv 2506.07022): Δ = D̃ P̂, with P̂ the projection on directions that benign
    states do not use and D̃ a ridge regression of P̂ h onto the refusal vector r. Its target is the
    same r for every prompt, so Δ = r cᵀ has rank one, and a direction r with a reader c holds the
    whole of it (`rank_one` splits a stored matrix). The published code adds the last token's Δ h to
    all tokens of the prompt, in the prefill only; ours maps each token of the span by itself, which
    keeps causality and gives the same with and without a cache.
    """
    return Policy(
        "alphasteer",
        "alphasteer",
        tuple(sites),
        directions,
        (1.0,) * len(sites),
        span=span or Span.onward(),
        operator="map",
        strength=strength,
        readers=readers,
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


def was(
    direction: Float[Tensor, " width"],
    layers: int,
    controller: ControllerGate,
    strength: float = 2.0,
    **meta: Any,
) -> Policy:
    """Weighted activation steering as published.

    Hegazy et al. (arXiv 2505.20309): the prefill decides s and w for each row at the last prompt
    token; decoding adds s · w_l · α · d at the output of every block, d the unit refusal direction.
    The first new token is predicted before anything is added. (The released code patches the last
    block alone; this is the paper's method.)

    Args:
        direction: d, normalised here.
        layers: blocks of the model.
        controller: decides at −1, and weighs every block.
        strength: α.
        **meta: provenance.

    Raises:
        InputError: the controller does not fit, or the direction has no length.
    """
    size = float(direction.norm())
    if not size > 0:
        raise InputError("the direction is the zero vector, which points nowhere.")
    return Policy(
        "was",
        "was",
        tuple(Site("resid_post", layer) for layer in range(layers)),
        (direction / size).expand(layers, -1).contiguous(),
        (1.0,) * layers,
        gate=controller,
        span=Span.decode(),
        strength=strength,
        meta=meta,
    )


def was_plus(
    sites: Sequence[Site],
    directions: Vectors,
    gate: Gate,
    strength: float,
    *,
    weights: Sequence[float] | None = None,
    span: Span | None = None,
    **meta: Any,
) -> Policy:
    """Weighted steering with a calibrated gate, after WAS (Hegazy et al., arXiv 2505.20309).

    Differs from it in four ways: the gate is exactly 0 below a threshold set on benign prompts;
    the strength is relative to the norm of each state; only the chosen sites are edited; and the
    span begins with the last prompt token, so that the first new token is steered too.

    Args:
        sites: where.
        directions: of each site; their lengths do not matter.
        gate: a `LogisticGate`, or a `ControllerGate` with a threshold, which also weighs the sites.
        strength: share of a state's norm that is added.
        weights: of the sites, in all rows; 1 by default.
        span: which tokens; from the last prompt token on by default.
        **meta: provenance.
    """
    return Policy(
        "was-plus",
        "was-plus",
        tuple(sites),
        directions,
        tuple(weights) if weights is not None else (1.0,) * len(sites),
        gate=gate,
        span=span or Span.onward(),
        operator="relative",
        strength=strength,
        meta=meta,
    )
