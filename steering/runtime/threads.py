"""One thread at a time: who runs the passes of an attachment."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from interp.errors import InputError

_CALL = nn.Module._call_impl.__code__


class Turn:
    """Lets one thread at a time run an attached model, and refuses any other meanwhile.

    It refuses, and does not make the other thread wait: strength and decisions belong to the last
    prompt, so a thread that had waited would steer with, or read, what is another thread's, and
    nobody would notice. Threads that take turns on their own account are welcome. Compiled decode
    steps look at no thread; that of another one is noticed at its `generate` or its prompt.

    Attributes:
        passing: a pass has begun and has not ended; it is under way, or it was aborted.
    """

    def __init__(self) -> None:
        self.passing = False
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._held = 0

    def begin(self) -> bool:
        """Note that a pass begins; returns whether the one before it never ended.

        Raises:
            InputError: another thread is at work.
        """
        with self._lock:
            self._claim()
            aborted, self.passing = self.passing, True
        return aborted

    def end(self) -> bool:
        """Note that this thread's pass has ended; False where the one under way is another's."""
        if self._thread != threading.get_ident():
            return False
        with self._lock:
            self.passing = False
            self._release()
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads out, also between passes.

        Raises:
            InputError: another thread is at work.
        """
        with self._lock:
            self._claim()
            self._held += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1
                self._release()

    def require(self) -> None:
        """Check that this thread is the one at work.

        Raises:
            InputError: another thread is.
        """
        if self._thread != threading.get_ident():
            with self._lock:
                self._claim()

    def _claim(self) -> None:
        me = threading.get_ident()
        if self._thread not in (None, me):
            if self._at_work():
                raise InputError(
                    "another thread is running this steered model; let one thread at a time do so "
                    "(a lock around each generate and around what reads its decisions), or give "
                    "each thread a copy of its own: copy.deepcopy(model), then attach."
                )
            self._held = 0
        self._thread = me

    def _release(self) -> None:
        if not (self._held or self.passing):
            self._thread = None

    def _at_work(self) -> bool:
        """Whether the other thread lives, and is in a pass: one that was aborted says no end."""
        assert self._thread is not None  # the caller asks for it first
        frame = sys._current_frames().get(self._thread)
        if self._held:
            return frame is not None
        while frame is not None:
            if frame.f_code is _CALL:
                return True
            frame = frame.f_back
        return False
