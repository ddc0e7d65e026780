"""What a search may cost: forward passes and seconds, counted, with stages that have a share.

One row through the network once is one forward pass; a token decoded with a cache counts as one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from interp.errors import InputError


class Exhausted(Exception):
    """No more forward passes or seconds; what was found until then stands."""


class Budget:
    """Forward passes and seconds, of a whole search or of a stage of it.

    Args:
        forward_passes: at most.
        seconds: at most, on the wall clock.
        clock: in seconds; replaced in tests.

    Raises:
        InputError: there is nothing to spend.
    """

    def __init__(
        self,
        forward_passes: int,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        parent: "Budget | None" = None,
    ) -> None:
        if forward_passes < 1 or not seconds > 0:
            raise InputError(
                f"a budget of {forward_passes} forward passes and {seconds:g} seconds buys "
                "nothing; give 1 or more of the first and more than 0 of the second."
            )
        self.forward_passes, self.seconds = forward_passes, float(seconds)
        self.spent = 0
        self.cut: list[str] = []
        self._clock, self._parent, self._begun = clock, parent, clock()
        self._charged = 0.0  # seconds of a stopped run

    @property
    def elapsed(self) -> float:
        """Seconds since it was made, and those of a stopped run that were charged."""
        return self._clock() - self._begun + self._charged

    @property
    def left(self) -> int:
        """Forward passes that are left."""
        own = self.forward_passes - self.spent
        return own if self._parent is None else min(own, self._parent.left)

    @property
    def exhausted(self) -> bool:
        """Whether any stage was cut short."""
        return bool(self.cut)

    def take(self, passes: int) -> None:
        """Pay before running.

        Raises:
            Exhausted: so many are not left, or the time is up; nothing is paid then.
        """
        if self.spent + passes > self.forward_passes or self.elapsed > self.seconds:
            raise Exhausted
        if self._parent is not None:
            self._parent.take(passes)
        self.spent += passes

    def charge(self, passes: int, seconds: float) -> None:
        """Count what a stopped run has spent already; nothing is refused."""
        if self._parent is not None:
            self._parent.charge(passes, seconds)
        self.spent += passes
        self._charged += seconds

    @contextmanager
    def stage(self, name: str, share: float = 1.0) -> Iterator["Budget"]:
        """A stage with a share of the whole; one that runs out is named in `cut` and ends quietly.

        Args:
            name: of the stage.
            share: of all forward passes and seconds that this budget had at first.
        """
        part = Budget(
            max(1, int(share * self.forward_passes)),
            share * self.seconds,
            clock=self._clock,
            parent=self,
        )
        try:
            yield part
        except Exhausted:
            self.cut.append(name)
