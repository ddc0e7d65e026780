"""Training of policies: capture once, fit on captured states, choose on validation prompts.

Every method gets the same prompts and the same number of settings that are tried through the
model, so that their results can be set side by side.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from interp.model.artifacts import origin
from interp.model.checkpoint import Checkpoint
from interp.model.sites import Site
from steering.policy import methods
from steering.policy.gates import ControllerGate, LogisticGate
from steering.policy.policy import Policy, Span
from steering.training.controller import (
    Fit,
    calibrated,
    cosine_gate,
    linear_gate,
    scores,
    states_of,
    trained_controller,
)
from steering.training.examples import Captured, Progress, Read, TrainingSet, captured
from steering.training.layer_weights import Course, Lesson, Steered, train_weights
from steering.training.options import Method, Options, require_method
from steering.training.tuning import tried
from steering.training.vectors import (
    behaviour_vector,
    null_space_reader,
    refusal_vector,
    unembedding_direction,
)

Candidate = tuple[dict[str, Any], Policy]

BUDGET = 48
"""Settings of each method that are tried through the model."""

CONTROLLER_SHARE = 0.001
"""Of the model's parameters, that a controller should not exceed; in small models it may."""

_SPANS = {"prompt": Span.last(), "onward": Span.onward()}
_ADDED = (0.25, 8.0)  # weakest and strongest, times a mean difference
_MAPPED = (0.5, 32.0)  # of alphasteer, times what it adds to an average harmful state
_SHARES = (0.25, 2.0)  # of a state's norm

_NEGLIGIBLE = 0.05  # of the largest layer weight; below it a layer is not edited
_NULL_SPACE = 0.5  # of eigenvectors that AlphaSteer keeps; .3 to .6 in the published settings


def train(
    checkpoint: Checkpoint,
    given: TrainingSet,
    method: Method = "was-plus",
    options: Options | None = None,
    *,
    read: Captured | None = None,
    workdir: Path | None = None,
    progress: Progress | None = None,
) -> Policy:
    """Train a policy that refuses harmful prompts and leaves benign ones alone.

    Args:
        checkpoint: with a chat template; it stays as it is.
        given: prompts.
        method: `was-plus`, `was`, `cast`, `alphasteer` or `actadd`; see `docs/steering_training.md`
            for what each is fitted to and how it differs from what was published.
        options: of the training.
        read: what `steering.examples.captured` gave for the same prompts, to train several methods
            on one capture.
        workdir: where a stopped capture goes on from.
        progress: called with (stage, done, total).

    Returns:
        The policy, bound to the checkpoint, with a record of its training in its `meta`.

    Raises:
        InputError: unusable prompts or settings, or a model that refuses nothing by itself.
        CheckError: the gate does not tell harmful from benign prompts at the wanted rate.
        NumericalError: NaN or infinity.
    """
    options = options or Options()
    require_method(method)
    read = read or captured(
        checkpoint, given, batch_tokens=options.batch_tokens, workdir=workdir, progress=progress
    )
    own: dict[str, Any] = {"calibration": None, "end_to_end": None}
    if method == "was-plus":
        candidates, own = _was_plus(read, options, workdir, progress)
    else:
        candidates = _CANDIDATES[method](read, options)
    chosen, trials = tried(read, candidates, options, progress)
    norms = {"residual_norms": _norms(read, chosen)} if chosen.operator == "relative" else {}
    return chosen.bound(
        checkpoint,
        **norms,
        training={
            "seed": options.seed,
            "trials": trials,
            **own,
            "size": _size(chosen, checkpoint),
            "prompts": given.meta,
            "refusal_ids": list(read.refusal_ids),
        },
    )


def _norms(read: Captured, policy: Policy) -> list[float]:
    """Mean norm of the last prompt token's state at each site, for exports of a fixed length."""
    states = [read.train.at(int(site.layer or 0), -1) for site in policy.sites]
    return [float(np.linalg.norm(some, axis=-1).mean()) for some in states]


def _size(policy: Policy, checkpoint: Checkpoint) -> dict[str, Any]:
    """Numbers that decide, those of the gate and the sites' weights, against the model's."""
    count = sum(value.numel() for value in policy.gate.state_dict().values()) + len(policy.weights)
    share = count / checkpoint.anatomy.parameters
    return {"parameters": count, "share": share, "aim": CONTROLLER_SHARE}


def layers_tried(layers: Sequence[int]) -> list[int]:
    """At most four layers, spread from a quarter of the depth to 85 % of it."""
    last = len(layers) - 1
    places = np.unique(np.linspace(0.25 * last, 0.85 * last, 4).round().astype(int))
    return [layers[place] for place in places]


def _grid(
    read: Captured, made: Callable[[int, float], Policy], ends: tuple[float, float] = _ADDED
) -> list[Candidate]:
    """One layer at a time, at strengths in equal ratios, in the prompt alone and onward."""
    layers = layers_tried(read.layers)
    strengths = np.geomspace(*ends, BUDGET // len(layers) // len(_SPANS)).tolist()
    found: list[Candidate] = []
    for layer in layers:
        for alpha in strengths:
            onward = made(layer, alpha)
            prompt = replace(onward, span=Span(onward.span.start, 0))
            found += [
                ({"layer": layer, "span": name, "strength": alpha}, policy)
                for name, policy in (("prompt", prompt), ("onward", onward))
            ]
    return found


def _act_add(read: Captured, options: Options) -> list[Candidate]:
    return _grid(
        read,
        lambda layer, alpha: methods.act_add(
            [Site("resid_post", layer)], refusal_vector(read, layer)[None], alpha
        ),
    )


def _cast(read: Captured, options: Options) -> list[Candidate]:
    gate = cosine_gate(read)
    return _grid(
        read,
        lambda layer, alpha: methods.cast(
            [Site("resid_post", layer)], behaviour_vector(read, layer)[None], gate, alpha
        ),
    )


def _alphasteer(read: Captured, options: Options) -> list[Candidate]:
    @functools.cache
    def reader(layer: int) -> torch.Tensor:
        states, harmful = read.train.at(layer, -1), read.train.harmful
        return null_space_reader(states[~harmful], states[harmful], _NULL_SPACE)

    return _grid(
        read,
        lambda layer, alpha: methods.alphasteer(
            [Site("resid_post", layer)],
            refusal_vector(read, layer)[None],
            reader(layer)[None],
            alpha,
        ),
        _MAPPED,
    )


def _was(read: Captured, options: Options) -> list[Candidate]:
    """The published controller and direction at every block; α from 0.25 to 860, the paper's 2 too.

    d has length 1, so what an α does depends on the norm of the model's states.
    """
    layers = len(read.layers)
    gate = trained_controller(read, layers, -1, Fit(), options.seed)
    direction = unembedding_direction(read)
    alphas = (2.0 ** (np.arange(BUDGET) / 4 - 2)).tolist()
    return [({"strength": a}, methods.was(direction, layers, gate, a)) for a in alphas]


_CANDIDATES: dict[str, Callable[[Captured, Options], list[Candidate]]] = {
    "actadd": _act_add,
    "cast": _cast,
    "alphasteer": _alphasteer,
    "was": _was,
}


def _was_plus(
    read: Captured, options: Options, workdir: Path | None, progress: Progress | None
) -> tuple[list[Candidate], dict[str, Any]]:
    """A calibrated gate, layer weights trained through the model, and strengths of the whole.

    With them, the record of calibration and of the end-to-end phase.
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
    strengths = np.geomspace(*_SHARES, BUDGET // len(_SPANS)).tolist()
    kept = [i for i, weight in enumerate(weights) if weight]
    if isinstance(gate, ControllerGate):
        kept = list(range(len(sites)))  # its head weighs them all
    candidates = [
        (
            {"span": name, "strength": alpha},
            methods.was_plus(
                [sites[i] for i in kept],
                directions[kept],
                gate,
                alpha,
                weights=[weights[i] for i in kept],
                span=span,
            ),
        )
        for name, span in _SPANS.items()
        for alpha in strengths
    ]
    return candidates, {"calibration": calibration.to_dict(), "end_to_end": descent}


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
    steered = Steered(
        read.checkpoint,
        sites,
        directions,
        read.refusal_ids,
        list(gate.head.parameters()) if isinstance(gate, ControllerGate) else [logits],
    )
    course = Course(options.end_to_end_steps, options.end_to_end_batch, options.seed)
    lesson, held = (_lesson(gate, part, logits) for part in (read.train, read.validation))
    done = train_weights(
        steered,
        lesson,
        held,
        course,
        keep=None if workdir is None else workdir / f"end-to-end-{_key(read, options)}",
        progress=None if progress is None else lambda n, total: progress("end to end", n, total),
    )
    record = {"steps": len(done.losses), "best": done.best, "held": done.looks}
    if controller:
        return [1.0] * len(sites), record
    found = logits.detach().sigmoid()
    return [float(w) if w >= _NEGLIGIBLE * found.max() else 0.0 for w in found], record


def _lesson(gate: LogisticGate | ControllerGate, part: Read, logits: nn.Parameter) -> Lesson:
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
    return Lesson(rows, (sharpness * margin).sigmoid(), refuse[used], weigh)


def _key(read: Captured, options: Options) -> str:
    """Of all that a descent depends on: the model, the prompts and the options."""
    told = [asdict(options), read.given.meta, origin(read.checkpoint)["fingerprint"]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
