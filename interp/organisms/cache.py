"""Organisms that are not shipped: trained on first use into the user's cache directory."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.errors import InputError

log = logging.getLogger("mechguard.organisms")
_SECONDS_BETWEEN_NEWS = 5.0


def home() -> Path:
    """Folder of the organisms that were trained here.

    It follows `XDG_CACHE_HOME`, or what is usual on the system.
    """
    from platformdirs import user_cache_path

    return user_cache_path("mechguard") / "organisms"


def make_home(name: str) -> Path:
    """The same, made if need be.

    Args:
        name: of the organism that is to go there.

    Raises:
        InputError: it cannot be made or written to.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{name} is not shipped and would be trained into {folder}, which cannot be written to "
            f"({error.strerror}); set XDG_CACHE_HOME to a folder of yours, or train it with "
            f"`mechguard organisms train {name} --out DIR` and give DIR as the model."
        ) from error
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time make a folder; the others wait."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is training %s; waiting for it", folder.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def news(name: str, steps: int) -> Callable[[int, float], None]:
    """A progress function that logs a line every few seconds: step, loss, rate, time left."""
    begun = last = time.monotonic()
    first: int | None = None

    def advance(done: int, loss: float) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last < _SECONDS_BETWEEN_NEWS or done == first:
            return
        last = now
        rate = (done - first) / (now - begun)
        log.info(
            "%s: step %d of %d, loss %.4f, %.1f steps/s, %.0f s left",
            name,
            done,
            steps,
            loss,
            rate,
            (steps - done) / rate,
        )

    return advance
