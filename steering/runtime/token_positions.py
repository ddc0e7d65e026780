"""Where the tokens of a pass stand, counted from the end of each row's prompt.

Token 0 is the first new one, −1 the last of the prompt. This comes from positions: of a token's
absolute position against the length of its row's prompt, or, inside of `generate`, of its column
against the prompt's columns, which is the same in a left-padded batch and costs no tensor. It never
comes from the number of tokens in a step, of which a chunk of the prompt may have one and a step of
assisted decoding several.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import InputError
from steering.runtime.span import Span

Chosen = Literal[True] | slice | Bool[Tensor, "rows tokens"] | None
"""Which tokens of a pass: all, those of some columns, some of each row, or none."""
Found = int | tuple[Bool[Tensor, " rows"], Int[Tensor, " rows"]] | None
"""A token of every row: the same column in all, or whether and in which column, or nowhere."""


class Clock:
    """Follows the passes of a model; `generation` and `announced` tell it what is prompt.

    Attributes:
        new: whether prompts begin with this pass, so that gates decide anew.
        prompts: number of prompts that were told; None where each row is one.
        rows: in the batch.
        tokens: of this pass, in each row.
        generating: whether `generate` is at work.
    """

    def __init__(self) -> None:
        self.new = True
        self.prompts: int | None = None
        self.rows = self.tokens = 0
        self.generating = False
        self.columns_known = False
        self._columns = 0
        self._told: Tensor | None = None
        self._lengths: Tensor | None = None
        self._started = False
        self._before = 0
        self._positions: Tensor | None = None
        self._real: Tensor | None = None
        self._offsets: Tensor | None = None

    @contextmanager
    def generation(
        self, columns: int, lengths: Int[Tensor, " prompts"], past: int
    ) -> Iterator[None]:
        """Tell that `generate` runs on prompts of these lengths in a batch of so many columns.

        Args:
            columns: of the left-padded prompts.
            lengths: of the prompts without padding.
            past: columns that a cache already holds.
        """
        kept = self._told, self.prompts, self._started
        self._told, self.prompts, self._started = lengths, len(lengths), False
        self.generating, self._columns, self._before, self.tokens = True, columns, past, 0
        try:
            yield
        finally:
            self.generating = self.columns_known = False
            self._told, self.prompts, self._started = kept

    @contextmanager
    def announced(self, lengths: Sequence[int] | Tensor) -> Iterator[None]:
        """Tell that passes inside are of one batch of prompts of these lengths."""
        told = torch.as_tensor(lengths)
        if told.ndim != 1 or told.is_floating_point() or not len(told) or bool((told < 1).any()):
            raise InputError(
                "the lengths of prompts are whole numbers, 1 or more, one for each row; got "
                f"{lengths!r}."
            )
        kept = self._told, self.prompts, self._started
        self._told, self.prompts, self._started = told, len(told), False
        try:
            yield
        finally:
            self._told, self.prompts, self._started = kept

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a pass of the decoder that starts."""
        if kwargs.get("cu_seq_lens_q") is not None:
            raise InputError(
                "the pass holds several sequences packed into one row, where no policy can tell "
                "the prompts apart; run a padded batch."
            )
        given = kwargs.get("input_ids")
        if given is None:
            given = kwargs.get("inputs_embeds")
        shape = args[0].shape if given is None else given.shape
        mask, past = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        if self.generating:
            self._before = self._columns_before(past)
            self.columns_known = True
        seen = self.generating or self._told is not None
        self.new = not self._started if seen else past is None or not int(past.get_seq_length())
        self.rows, self.tokens = int(shape[0]), int(shape[1])
        self._started = True
        two = isinstance(mask, Tensor) and mask.ndim == 2
        self._real = mask[:, -self.tokens :].bool() if two else None  # type: ignore[index]
        self._positions = self._offsets = None

    def restart(self) -> None:
        """Take the next pass for the first one of its prompts; the one that was is not to count."""
        self._started = False
        self._lengths = self._positions = self._offsets = None

    def _columns_before(self, past: Any) -> int:
        """Columns that earlier passes of this generation have filled."""
        if past is None:
            return 0
        length = past.get_seq_length()
        if isinstance(length, int):
            return length
        # A static cache counts in a tensor, which it would cost a synchronisation to read.
        return self._before + self.tokens

    def locate(self, positions: Int[Tensor, "..."]) -> None:
        """Note the positions of this pass's tokens."""
        self._positions = positions
        if not self.new:
            return
        if self._told is not None:
            if self.rows % len(self._told):
                raise InputError(
                    f"the batch has {self.rows} rows, but {len(self._told)} prompts were told; "
                    "give one length for each row."
                )
            told = self._told.to(positions.device)
            self._lengths = told.repeat_interleave(self.group)
            return
        here = positions.expand(self.rows, -1)
        if self._real is not None:
            here = torch.where(self._real.to(here.device), here, -1)
        self._lengths = here.amax(-1) + 1

    @property
    def group(self) -> int:
        """Rows of each prompt: its beams, or the samples drawn for it."""
        return self.rows // self.prompts if self.prompts else 1

    @property
    def decoding(self) -> bool:
        """Whether it is known that all tokens of the pass are new ones."""
        return self.columns_known and self._before >= self._columns

    def span(self, span: Span) -> Chosen:
        """Which tokens of this pass a span holds."""
        if self.columns_known:
            if not self.reaches(span):
                return None
            low = self._before - self._columns
            high = low + self.tokens
            whole = (span.start is None or low >= span.start) and (
                span.stop is None or high <= span.stop
            )
            if span.skip == 0 or low >= 0:
                begin = 0 if span.start is None else max(0, span.start - low)
                end = self.tokens if span.stop is None else min(self.tokens, span.stop - low)
                return True if whole else slice(begin, end)
        offsets = self._counted()
        chosen = torch.ones_like(offsets, dtype=torch.bool)
        if span.start is not None:
            chosen = chosen & (offsets >= span.start)
        if span.stop is not None:
            chosen = chosen & (offsets < span.stop)
        if span.skip:
            assert self._positions is not None
            chosen = chosen & ((self._positions >= span.skip) | (offsets >= 0))
        return chosen

    def reaches(self, span: Span) -> bool:
        """Whether a pass whose columns are known may hold a token of a span."""
        low = self._before - self._columns
        return (span.start is None or low + self.tokens > span.start) and (
            span.stop is None or low < span.stop
        )

    def holds(self, position: int) -> bool | None:
        """Whether this pass has the token at a position; None if only tensors know."""
        if not self.columns_known:
            return None
        return 0 <= position + self._columns - self._before < self.tokens

    def find(self, position: int) -> Found:
        """The token at a position counted from the end of the prompt."""
        if self.columns_known:
            return position + self._columns - self._before if self.holds(position) else None
        match = self._counted() == position
        if self._real is not None:
            match = match & self._real.to(match.device)
        # Padding on the left shares position 0 with the first token, which stands behind it.
        last = match.shape[1] - 1 - match.flip(1).long().argmax(-1)
        return match.any(-1), last

    def _counted(self) -> Int[Tensor, "rows tokens"]:
        """Offset of each token from the end of its row's prompt."""
        if self._offsets is None:
            assert self._positions is not None  # after locate
            if self._lengths is None:
                raise InputError(
                    "the pass goes on from a cache whose prompt was aborted, or was run before the "
                    "policy was attached; run the prompt anew, with an empty cache."
                )
            self._offsets = self._positions.expand(self.rows, -1) - self._lengths[:, None]
        return self._offsets
