"""Weighted steering behind a calibrated gate, its layer weights trained through the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.model.sites import Site
from steering.policy.policy import Policy
from steering.runtime.gates import ControllerGate, Gate, LogisticGate
from steering.runtime.span import Span
from steering.training.candidates import BUDGET, SPANS, Candidate, Fitted
from steering.training.controller import (
    Fit,
    calibrated,
    linear_gate,
    scores,
    states_of,
    trained_controller,
)
from steering.training.examples import Captured, Progress, Read
from steering.training.layer_weights import (
    SiteWeights,
    TrainingData,
    WeightSchedule,
    train_weights,
)
from steering.training.options import Options
from steering.training.trainable_method import trainable
from steering.training.vectors import refusal_vector

_STRENGTHS = (0.25, 2.0)  # weakest and strongest, as shares of a state's norm
_NEGLIGIBLE = 0.05  # of the largest layer weight; below it a layer is not edited


def was_plus(
    sites: Sequence[Site],
    directions: Float[Tensor, "sites width"],
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


@trainable("was-plus")
def candidates(
    read: Captured, options: Options, workdir: Path | None, progress: Progress | None
) -> Fitted:
    """A calibrated gate, layer weights trained through the model, and strengths of the whole.

    The record holds the calibration and the end-to-end phase.
    """
    probe = linear_gate(read, options.fpr)
    last = probe.reads[-1].layer
    layers = [layer for layer in read.layers if last is not None and layer >= last]
    gate: LogisticGate | ControllerGate = probe
    if options.controller == "mlp":
        fit = Fit(hidden=32, rate=1e-3, batch=32, epochs=100, early=True)
        gate = trained_controller(
            read, len(layers), probe.position, fit, options.seed, compress=True
        )
        gate.squash, gate.cut = "clip01", True
    calibration = calibrated(gate, read, options.fpr, options.least_tpr)
    gate.threshold.fill_(calibration.threshold)
    sites = [Site("resid_post", layer) for layer in layers]
    directions = torch.stack([refusal_vector(read, layer) for layer in layers])
    weights, descent = _weights(read, gate, sites, directions, options, workdir, progress)
    strengths = np.geomspace(*_STRENGTHS, BUDGET // len(SPANS)).tolist()
    kept = [i for i, weight in enumerate(weights) if weight]
    if isinstance(gate, ControllerGate):
        kept = list(range(len(sites)))  # its head weighs them all
    found: list[Candidate] = [
        (
            {"span": name, "strength": alpha},
            was_plus(
                [sites[i] for i in kept],
                directions[kept],
                gate,
                alpha,
                weights=[weights[i] for i in kept],
                span=span,
            ),
        )
        for name, span in SPANS.items()
        for alpha in strengths
    ]
    return Fitted(found, {"calibration": calibration.to_dict(), "end_to_end": descent})


def _weights(
    read: Captured,
    gate: LogisticGate | ControllerGate,
    sites: Sequence[Site],
    directions: torch.Tensor,
    options: Options,
    workdir: Path | None,
    progress: Progress | None,
) -> tuple[list[float], dict[str, Any] | None]:
    """Weights of the sites, trained end to end, and how that went.

    Those of a controller are trained within it.
    """
    controller = isinstance(gate, ControllerGate)
    if not options.end_to_end:
        return [1.0 if controller else 1 / len(sites)] * len(sites), None
    logits = nn.Parameter(torch.full((len(sites),), -1.0))
    steered = SiteWeights(
        read.checkpoint,
        sites,
        directions,
        read.refusal_ids,
        list(gate.head.parameters()) if isinstance(gate, ControllerGate) else [logits],
    )
    schedule = WeightSchedule(options.end_to_end_steps, options.end_to_end_batch, options.seed)
    data, held = (_training_data(gate, part, logits) for part in (read.train, read.validation))
    done = train_weights(
        steered,
        data,
        held,
        schedule,
        keep=None if workdir is None else workdir / "end-to-end",
        progress=None if progress is None else lambda n, total: progress("end to end", n, total),
    )
    record = {"steps": len(done.losses), "best": done.best, "held": done.looks}
    if controller:
        return [1.0] * len(sites), record
    found = logits.detach().sigmoid()
    return [float(w) if w >= _NEGLIGIBLE * found.max() else 0.0 for w in found], record


def _training_data(
    gate: LogisticGate | ControllerGate, part: Read, logits: nn.Parameter
) -> TrainingData:
    """Prompts of a part with the gate's strengths; its controller weighs the sites, or `logits`."""
    refuse = part.kinds == ("jailbroken" if (part.kinds == "jailbroken").any() else "harmful")
    used = np.flatnonzero(refuse | (part.kinds == "benign"))
    controller = isinstance(gate, ControllerGate)
    sharpness = 10.0 if controller else 1.0  # a controller's scale runs from 0 to 1
    margin = torch.tensor(scores(gate, part)[used]).float() - gate.threshold
    states = states_of(gate, part)[torch.tensor(used)]

    def weigh(rows: torch.Tensor) -> torch.Tensor:
        weights: torch.Tensor | None = logits.sigmoid().expand(len(rows), -1)
        if controller:
            weights = gate(states[rows]).weights
        assert weights is not None  # a controller weighs its sites
        return weights

    rows = [part.rows[i] for i in used]
    return TrainingData(rows, (sharpness * margin).sigmoid(), refuse[used], weigh)
