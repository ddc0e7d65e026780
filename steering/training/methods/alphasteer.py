"""Addition of a linear map of the state that vanishes on benign states."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.model.sites import Site
from steering.policy.policy import Policy
from steering.runtime.span import Span
from steering.training.candidates import Fitted, grid
from steering.training.examples import Captured, Progress
from steering.training.options import Options
from steering.training.trainable_method import trainable
from steering.training.vectors import null_space_reader, refusal_vector

_STRENGTHS = (0.5, 32.0)  # weakest and strongest, times what 1 adds to an average harmful state
_NULL_SPACE = 0.5  # share of eigenvectors that is kept; .3 to .6 in the published settings


def alphasteer(
    sites: Sequence[Site],
    directions: Float[Tensor, "sites width"],
    readers: Float[Tensor, "sites width"],
    strength: float = 1.0,
    span: Span | None = None,
    **meta: Any,
) -> Policy:
    """Addition of Δ h, where Δ was fitted to vanish on benign states: h' = h + λ Δ h.

    AlphaSteer (arXiv 2506.07022): Δ = D̃ P̂, with P̂ the projection on directions that benign
    states do not use and D̃ a ridge regression of P̂ h onto the refusal vector r. Its target is the
    same r for every prompt, so Δ = r cᵀ has rank one, and a direction r with a reader c holds the
    whole of it (`steering.rank_one` splits a stored matrix). The published code adds the last
    token's Δ h to all tokens of the prompt, in the prefill only; ours maps each token of the span
    by itself, which keeps causality and gives the same with and without a cache.
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


@trainable("alphasteer")
def candidates(
    read: Captured, options: Options, workdir: Path | None, progress: Progress | None
) -> Fitted:
    """The difference in means of each layer with its null-space reader."""

    @functools.cache
    def reader(layer: int) -> Tensor:
        states, harmful = read.train.at(layer, -1), read.train.harmful
        return null_space_reader(states[~harmful], states[harmful], _NULL_SPACE)

    def made(layer: int, alpha: float) -> Policy:
        direction = refusal_vector(read, layer)[None]
        return alphasteer([Site("resid_post", layer)], direction, reader(layer)[None], alpha)

    return Fitted(grid(read, made, _STRENGTHS))
