"""Addition of principal components where a state looks like a condition vector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.model.sites import Site
from steering.policy.policy import Policy
from steering.runtime.gates import CosineGate
from steering.runtime.span import Span
from steering.training.candidates import Fitted, grid
from steering.training.controller import cosine_gate
from steering.training.examples import Captured, Progress
from steering.training.options import Options
from steering.training.trainable_method import trainable
from steering.training.vectors import behaviour_vector


def cast(
    sites: Sequence[Site],
    directions: Float[Tensor, "sites width"],
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


@trainable("cast")
def candidates(
    read: Captured, options: Options, workdir: Path | None, progress: Progress | None
) -> Fitted:
    """The behaviour vector of each layer, behind the condition of the best F1."""
    gate = cosine_gate(read)

    def made(layer: int, alpha: float) -> Policy:
        return cast([Site("resid_post", layer)], behaviour_vector(read, layer)[None], gate, alpha)

    return Fitted(grid(read, made))
