"""A request under way, and what happens to it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from steering.runtime.decisions import Decision
from steering.serve.errors import RequestError
from steering.serve.requests import ChatRequest

_log = logging.getLogger("mechguard")


@dataclass(frozen=True)
class Started:
    """The prompt was read and the gates have decided.

    An answer that is not streamed may start again, and what came before is void then.
    """

    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Piece:
    """Some text of the answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is whole: `stop` or `length`, and how many tokens it took."""

    reason: str
    tokens: int


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    error: RequestError


Event = Started | Piece | Done | Failed


class Job:
    """A request under way; what happens to it is told to `publish`, from the batcher's thread.

    Attributes:
        request: what is asked for.
        over: its end was told.
        begun: its client may have seen a part of the answer, so that it cannot be tried again.
    """

    def __init__(self, request: ChatRequest, publish: Callable[[Event], None]) -> None:
        self.request, self._publish = request, publish
        self.over = self.begun = False
        self._gone = False

    def cancel(self) -> None:
        """Nobody listens any more."""
        self._gone = True

    @property
    def live(self) -> bool:
        """Whether somebody waits for more."""
        return not (self.over or self._gone)

    def tell(self, event: Started | Piece) -> None:
        """Tell what has happened, unless nobody listens."""
        if self.live:
            self.begun = self.request.stream
            self._send(event)

    def finish(self, event: Done | Failed) -> None:
        """Tell the end, once."""
        if self.live:
            self.over = True
            self._send(event)

    def _send(self, event: Event) -> None:
        try:
            self._publish(event)
        except Exception:
            _log.exception("a client could not be told")
            self.cancel()
