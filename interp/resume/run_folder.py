"""The work folder of one run: what run it belongs to, who is at it, and whether it keeps anything.

A folder's name is a digest of all that its run depends on, so that a run goes on from its own work
alone; `run.json` says the same in full, so that a run that begins anew can say what has changed.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.resume.files import TEMPORARY, write_atomically

log = logging.getLogger("mechguard")

RUN, _LOCK = "run.json", "lock"
_OWN = (RUN, _LOCK)
_SHOWN = 4
_noted: dict[Path, None] = {}


def run_folder(
    parent: Path, kind: str, run: Mapping[str, Any], *, alone: bool = False, said: str = ""
) -> Path:
    """The folder of exactly this run, made if need be.

    Where it is new, and another run of its kind has left work here, what differs is logged.

    Args:
        parent: of the folders of runs.
        kind: of the run; the beginning of the folder's name.
        run: all that its results depend on; JSON-ready.
        alone: remove what other runs of the kind have left, because they would share files.
        said: how the run is called where it is logged; its kind by default.

    Raises:
        InputError: the folder cannot be made.
    """
    text = json.dumps(run, sort_keys=True)
    folder = parent / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    fresh = not (folder / RUN).exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name another.") from error
    others = _others(parent, kind, folder)
    if fresh:
        _say_what_changed(said or kind, others, json.loads(text))
        write_atomically(folder / RUN, text.encode())
    elif _kept(folder) and _speaks():
        log.info("%s: goes on from where it was stopped.", said or kind)
    if alone:
        for path in others:
            shutil.rmtree(path, ignore_errors=True)
    note(folder)
    return folder


@contextmanager
def exclusive(folder: Path | None) -> Iterator[None]:
    """Keep a run's folder from other processes; it is removed once the run is done.

    A run that fails or is stopped leaves the folder, to go on from, if anything is kept there.

    Args:
        folder: from `run_folder`; None for a run that keeps nothing.

    Raises:
        InputError: another process is at the same run.
    """
    from filelock import FileLock, Timeout

    if folder is None:
        yield
        return
    lock = FileLock(folder / _LOCK)
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
        if not _kept(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def note(folder: Path) -> None:
    """Say that a run of this process keeps its work in a folder, for as long as the folder is."""
    _noted[folder] = None


def any_kept() -> bool:
    """Whether runs of this process have left work to go on from."""
    return any(_kept(folder) for folder in _noted)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions, each field in words."""
    old, new = dict(_flat(then, "")), dict(_flat(now, ""))
    return [
        f"{name} {_shown(old.get(name))} then, {_shown(new.get(name))} now"
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name) and ".rounded." not in name  # of the same weights
    ]


def listed(changed: Sequence[str]) -> str:
    """Changes in a sentence, the first few of many."""
    more = len(changed) - _SHOWN
    return "; ".join(changed[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _kept(folder: Path) -> bool:
    """Whether a folder, or one within it, holds a file of work that is whole."""
    return any(
        path.name not in _OWN and path.suffix != TEMPORARY and not path.is_dir()
        for path in folder.rglob("*")
    )


def _others(parent: Path, kind: str, folder: Path) -> list[Path]:
    found = parent.glob(f"{kind}-{'[0-9a-f]' * 16}")
    return [path for path in found if path != folder and path.is_dir()]


def _say_what_changed(said: str, others: Sequence[Path], run: Mapping[str, Any]) -> None:
    """Name what differs from the most similar of the runs that have left work."""
    differing = []
    for path in others:
        if _kept(path) and (then := _read(path / RUN)) is not None:
            differing.append(changes(then, run))
    if differing and _speaks():
        closest = min(differing, key=len)
        log.info(
            "%s: begins anew, for what was kept belongs to another run (%s).", said, listed(closest)
        )


def _speaks() -> bool:
    """Whether this process is the one that speaks, under `torchrun` or alone."""
    return os.environ.get("RANK", "0") == "0"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _flat(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        begin = f"{name}." if name else ""
        return [one for key in value for one in _flat(value[key], f"{begin}{key}")]
    return [(name, value)]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:8]
    return text if len(text) <= 60 else f"{text[:57]}…"
