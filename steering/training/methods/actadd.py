"""Addition of the difference in means at one layer, on every prompt."""

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
from steering.training.vectors import refusal_vector


def act_add(
    sites: Sequence[Site],
    directions: Float[Tensor, "sites width"],
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


@trainable("actadd")
def candidates(
    read: Captured, options: Options, workdir: Path | None, progress: Progress | None
) -> Fitted:
    """The difference in means of each layer, at strengths in equal ratios."""

    def made(layer: int, alpha: float) -> Policy:
        return act_add([Site("resid_post", layer)], refusal_vector(read, layer)[None], alpha)

    return Fitted(grid(read, made))
