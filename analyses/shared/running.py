"""What every analysis shares while it runs: progress, a folder to go on from, and provenance."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from analyses.shared.reports import DataEntry, ModelFacts, RunFacts
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import PromptSet
from interp.errors import InputError
from interp.model.artifacts import versions

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """The progress of one stage."""
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def own_folder(workdir: Path | None, kind: str, *identity: object) -> Path | None:
    """The subfolder of exactly this run, made if need be.

    Args:
        workdir: of all runs; None for a run that keeps nothing.
        kind: of the analysis.
        identity: everything that tells this run from another of its kind.

    Raises:
        InputError: it cannot be made.
    """
    if workdir is None:
        return None
    key = " ".join(map(str, (version("mechguard"), *identity)))
    folder = workdir / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name another.") from error
    return folder


@contextmanager
def exclusive(folder: Path | None) -> Iterator[None]:
    """Keep a run's folder from other processes; it is removed once the run is done.

    A run that fails or is stopped leaves the folder, to go on from.

    Args:
        folder: from `own_folder`.

    Raises:
        InputError: another process is at the same run.
    """
    from filelock import FileLock, Timeout

    if folder is None:
        yield
        return
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            "the same run is under way in another process; wait for it, or stop it, and give the "
            "command again."
        ) from None
    try:
        yield
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


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
    anatomy = checkpoint.anatomy
    return {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "fingerprint": checkpoint.fingerprint,
        "tokenizer_hash": checkpoint.tokenizer_hash,
        "model_type": anatomy.model_type,
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "width": anatomy.width,
        "layers": anatomy.n_layers,
        "parameters": anatomy.parameters,
        "device": str(checkpoint.device),
    }


def data_of(parts: Mapping[str, PromptSet]) -> tuple[DataEntry, ...]:
    """The prompts of a run by name, as a provenance names them."""
    return tuple(DataEntry(name, part.sha256, len(part)) for name, part in parts.items())
