"""From tokens, one at a time, to text that can be sent on the way."""

from collections.abc import Sequence
from typing import Any


class Speech:
    """The text of one answer as its tokens come.

    The pieces put together are the decoded answer, cut before the first stop string. A piece is
    held back while it may be the beginning of a stop string or of a character.

    Attributes:
        stopped: a stop string was reached.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        # A window of tokens is decoded, because what a token says may depend on the one before it.
        self._begin = self._read = 0
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Text that is certain once this token has come."""
        self._ids.append(token)
        return self._cut(self._decoded(last=False), last=False)

    def end(self) -> str:
        """What was held back, when no more tokens come."""
        return self._cut(self._decoded(last=True), last=True)

    def _decoded(self, last: bool) -> str:
        before = self._decode(self._ids[self._begin : self._read])
        now = self._decode(self._ids[self._begin :])
        if not last and (now.endswith("\ufffd") or len(now) <= len(before)):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _cut(self, piece: str, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = 0 if last else self._begun(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _begun(self, text: str) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
