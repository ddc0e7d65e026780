"""Which rows run together: batches of like length under a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.data.rows import Row

# A batch may hold this share of padding before a new one is begun.
_MOST_PADDING = 0.1


@dataclass(frozen=True)
class RowPlan:
    """Which rows run together. The same rows give the same plan, on any number of ranks."""

    batches: tuple[tuple[int, ...], ...]
    tokens: int
    largest_batch: int

    def __len__(self) -> int:
        return len(self.batches)

    @classmethod
    def make(cls, rows: Sequence[Row], batch_tokens: int) -> "RowPlan":
        """Group rows of similar length under a token budget; a longer row gets its own batch."""
        batches: list[list[int]] = []
        used = largest = 0  # tokens of the last batch; padded size of the largest
        for length, index in sorted((len(row), row.index) for row in rows):
            padded = (len(batches[-1]) + 1) * length if batches else 0
            spare = _MOST_PADDING * padded
            if batches and padded <= batch_tokens and padded - used - length <= spare:
                batches[-1].append(index)
                used += length
            else:
                batches.append([index])
                used = length
            largest = max(largest, len(batches[-1]) * length)
        return cls(tuple(map(tuple, batches)), sum(map(len, rows)), largest)
