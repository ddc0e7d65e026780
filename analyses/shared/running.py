"""What every analysis shares while it runs: progress, a folder to go on from, and provenance."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analyses.shared.described import described
from analyses.shared.reports import DataEntry, ModelFacts, RunFacts
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import PromptSet
from interp.model.artifacts import versions
from interp.model.origin import origin
from interp.resume.run_folder import run_folder

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """The progress of one stage."""
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def own_folder(
    workdir: Path | None,
    kind: str,
    checkpoint: Checkpoint,
    *,
    reference: Checkpoint | None = None,
    data: Any,
    template: Any = None,
    scorer: Any = None,
    options: Mapping[str, Any],
) -> Path | None:
    """The folder of exactly this run, made if need be.

    A run goes on only where all of this is equal, and so are the versions of the libraries that
    numbers depend on; where something differs, it begins anew and what differs is logged.

    Args:
        workdir: of all runs; None for a run that keeps nothing.
        kind: of the analysis.
        checkpoint: that is measured.
        reference: the reference model, if any.
        data: what it is measured on.
        template: further arguments of the chat template.
        scorer: that judges answers.
        options: everything else that the results depend on.

    Raises:
        InputError: it cannot be made.
    """
    if workdir is None:
        return None
    run = {
        "model": checkpoint,
        "reference": reference,
        "data": data,
        "template": template,
        "scorer": scorer,
        "options": options,
        "versions": versions(),
    }
    return run_folder(workdir, kind, described(run))


class Stopwatch:
    """When a run began."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._begun = time.perf_counter()

    def facts(self, seed: int, command: str | None) -> RunFacts:
        """What the provenance of every report says of the run: how it is made again, and when.

        Args:
            seed: of the run.
            command: by which it was begun, if by one.
        """
        return {
            "seed": seed,
            "versions": versions(),
            "command": command,
            "started": self._started,
            "wall_seconds": round(time.perf_counter() - self._begun, 1),
        }


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """What the provenance of every report says of the checkpoint."""
    return {
        **origin(checkpoint),
        "parameters": checkpoint.anatomy.parameters,
        "device": str(checkpoint.device),
    }


def data_of(parts: Mapping[str, PromptSet]) -> tuple[DataEntry, ...]:
    """The prompts of a run by name, as a provenance names them."""
    return tuple(DataEntry(name, part.sha256, len(part)) for name, part in parts.items())
