"""Weighted activation steering as published, with an MLP controller and no threshold."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.model.sites import Site
from steering.policy.policy import Policy
from steering.runtime.gates import ControllerGate
from steering.runtime.span import Span
from steering.training.candidates import BUDGET, Fitted
from steering.training.controller import Fit, trained_controller
from steering.training.examples import Captured, Progress
from steering.training.options import Options
from steering.training.trainable_method import trainable
from steering.training.vectors import unembedding_direction


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


@trainable("was")
def candidates(
    read: Captured, options: Options, workdir: Path | None, progress: Progress | None
) -> Fitted:
    """The published controller and direction at every block; α from 0.25 to 860, the paper's 2 too.

    d has length 1, so what an α does depends on the norm of the model's states.
    """
    layers = len(read.layers)
    gate = trained_controller(read, layers, -1, Fit(), options.seed)
    direction = unembedding_direction(read)
    alphas = (2.0 ** (np.arange(BUDGET) / 4 - 2)).tolist()
    return Fitted([({"strength": a}, was(direction, layers, gate, a)) for a in alphas])
