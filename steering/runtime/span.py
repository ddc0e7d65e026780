"""Which tokens a policy edits, counted from the end of the prompt."""

from dataclasses import dataclass

from interp.errors import InputError


@dataclass(frozen=True)
class Span:
    """Which tokens are edited, counted from the end of the prompt.

    Token 0 is the first new one and −1 the last of the prompt, whatever the length of the prompt,
    its padding, or the cache.

    Attributes:
        start: first token edited; None begins with the prompt.
        stop: first token behind them; None never stops.
        skip: so many first tokens of the prompt are left alone, such as BOS.
    """

    start: int | None
    stop: int | None
    skip: int = 0

    def __post_init__(self) -> None:
        empty = self.start is not None and self.stop is not None and self.start >= self.stop
        if empty or self.skip < 0:
            raise InputError(
                f"a span from {self.start} to {self.stop} that skips {self.skip} tokens holds no "
                "token; start must be below stop, and skip 0 or more."
            )

    @classmethod
    def everything(cls) -> "Span":
        """Prompt and reply."""
        return cls(None, None)

    @classmethod
    def prompt(cls) -> "Span":
        """The prompt alone."""
        return cls(None, 0)

    @classmethod
    def decode(cls) -> "Span":
        """New tokens alone."""
        return cls(0, None)

    @classmethod
    def last(cls) -> "Span":
        """The last token of the prompt alone, from whose state the first new token is predicted."""
        return cls(-1, 0)

    @classmethod
    def onward(cls, position: int = -1) -> "Span":
        """From a token of the prompt on, the reply included."""
        return cls(position, None)
