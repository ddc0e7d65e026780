"""What every analysis shares while it runs: progress by stage, and a folder to go on from."""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from interp.errors import InputError

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """The progress of one stage."""
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def own_folder(workdir: Path, kind: str, *identity: object) -> Path:
    """The subfolder of exactly this run, made if need be.

    Args:
        workdir: of all runs.
        kind: of the analysis.
        identity: everything that tells this run from another of its kind.

    Raises:
        InputError: it cannot be made.
    """
    key = " ".join(map(str, (version("mechguard"), *identity)))
    folder = workdir / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name another.") from error
    return folder
