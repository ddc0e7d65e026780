"""Training of policies: capture once, fit on captured states, choose on validation prompts.

Every method gets the same prompts and the same number of settings that are tried through the
model, so that their results can be set side by side.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.data.rows import Rows
from interp.model.artifacts import versions
from interp.resume.run_folder import exclusive, run_folder
from steering.policy.policy import Policy
from steering.training.examples import KINDS, Captured, Cases, Progress, TrainingSet, captured
from steering.training.options import Options
from steering.training.registry import DEFAULT, require_method
from steering.training.tuning import tune

CONTROLLER_SHARE = 0.001
"""Of the model's parameters, that a controller should not exceed; in small models it may."""


def train(
    checkpoint: Checkpoint,
    given: TrainingSet,
    method: str = DEFAULT,
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
        method: one of `steering.training.registry.names()`; see `docs/steering_training.md` for
            what each is fitted to and how it differs from what was published.
        options: of the training.
        read: what `steering.training.examples.captured` gave for the same prompts, to train
            several methods on one capture.
        workdir: folder in which a stopped training leaves what it had; emptied when it is done.
        progress: called with (stage, done, total).

    Returns:
        The policy, bound to the checkpoint, with a record of its training in its `meta`.

    Raises:
        InputError: unusable prompts or settings, or a model that refuses nothing by itself.
        CheckError: the gate does not tell harmful from benign prompts at the wanted rate.
        NumericalError: NaN or infinity.
    """
    options = options or Options()
    require_type(checkpoint, Checkpoint, "checkpoint", "load one with mechguard.load(source)")
    require_type(given, TrainingSet, "given", "make one of prompts with steering.TrainingSet(…)")
    require_type(options, Options, "options", "make them with steering.training.options.Options(…)")
    found = require_method(method)
    own = None
    if workdir is not None:
        own = run_folder(workdir, "steer-train", _run(checkpoint, given, method, options))
    with exclusive(own):
        read = read or captured(
            checkpoint, given, batch_tokens=options.batch_tokens, workdir=own, progress=progress
        )
        fitted = found.candidates(read, options, own, progress)
        chosen, trials = tune(read, fitted.candidates, options, workdir=own, progress=progress)
    norms = {"residual_norms": _norms(read, chosen)} if chosen.operator == "relative" else {}
    return chosen.bound(
        checkpoint,
        **norms,
        training={
            "seed": options.seed,
            "trials": trials,
            **{"calibration": None, "end_to_end": None, **fitted.record},
            "size": _size(chosen, checkpoint),
            "prompts": given.meta,
            "refusal_ids": list(read.refusal_ids),
        },
    )


def _run(
    checkpoint: Checkpoint, given: TrainingSet, method: str, options: Options
) -> dict[str, Any]:
    """All that a training depends on."""
    parts = {"train": given.train, "validation": given.validation}
    prompts = {
        f"{name} {kind}": _digest(part.of(kind)) for name, part in parts.items() for kind in KINDS
    }
    return {
        "model": checkpoint.measured_on,
        "prompts": {**prompts, "calibration": _digest(given.calibration)},
        "refusals": list(given.refusals),
        "method": method,
        "options": asdict(options),
        "versions": versions(),
    }


def _digest(cases: Cases) -> str:
    return Rows(tuple(cases.rows), False).sha256


def _norms(read: Captured, policy: Policy) -> list[float]:
    """Mean norm of the last prompt token's state at each site, for exports of a fixed length."""
    states = [read.train.at(int(site.layer or 0), -1) for site in policy.sites]
    return [float(np.linalg.norm(some, axis=-1).mean()) for some in states]


def _size(policy: Policy, checkpoint: Checkpoint) -> dict[str, Any]:
    """Numbers that decide, those of the gate and the sites' weights, against the model's."""
    count = sum(value.numel() for value in policy.gate.state_dict().values()) + len(policy.weights)
    share = count / checkpoint.anatomy.parameters
    return {"parameters": count, "share": share, "aim": CONTROLLER_SHARE}
