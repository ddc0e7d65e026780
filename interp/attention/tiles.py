"""Row and column statistics of attention from explicit scores, one tile of them at a time.

With the log-sum-exp of a row known, each of its weights is exp(score − LSE) on its own, so one pass
over small tiles yields every sum at once: nothing is kept but the sums, and a tile never leaves the
processor's cache. On a CPU this beats further flash calls: one pass costs about as much as one
flash call, whatever is asked for.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Queries and keys of a tile, and how many scores are held at a time (2 MiB of float32); heads
# share a tile where sequences are short. Measured on 2 cores with 2 MiB of L2 cache each.
ROWS = 128
KEYS = 4096
TILE = 2**19
# Score of a key out of sight, finite because 0 · −inf is NaN; its exponential is exactly 0.
_HIDDEN = -1e30


@dataclass
class Sums:
    """What a sweep gathers; a sum that was not asked for is None.

    `entropy` = −Σ_j p log p in nats and `square` = Σ_j p² describe each row's own distribution p;
    `column` = Σ_i w_i p_ij and `column_log` = Σ_i w_i p_ij log(w_i p_ij), float64, are over the
    queries, each with its weight.
    """

    entropy: Float[Tensor, "*lines length"] | None
    square: Float[Tensor, "*lines length"] | None
    column: Float[Tensor, "*lines length"] | None
    column_log: Float[Tensor, "*lines length"] | None

    def column_entropy(self) -> Float[Tensor, "*lines length"]:
        """Entropy in nats of each column's distribution over queries; 0 where it has no mass."""
        assert self.column is not None and self.column_log is not None
        entropy = self.column.log() - self.column_log / self.column
        return entropy.clamp_min(0.0).where(self.column > 0, 0.0)


@dataclass(frozen=True)
class Scores:
    """The attention to sweep over: what `interp.kernels.AttentionInputs` says, and its LSE.

    `weight` is how much each query counts in the columns: 0 for padding, and less than 1 where a
    learned sink takes a share of its attention.
    """

    query: Float[Tensor, "batch heads length dim"]
    key: Float[Tensor, "batch kv_heads length dim"]
    lse: Float[Tensor, "batch heads length"]
    weight: Float[Tensor, "batch heads length"]
    scale: float
    mask: Bool[Tensor, "#batch 1 length length"] | None
    window: int | None


@torch.no_grad()
def sweep(
    scores: Scores,
    *,
    entropy: bool = False,
    square: bool = False,
    column: bool = False,
    column_log: bool = False,
    rows: int = ROWS,
    keys: int = KEYS,
) -> Sums:
    """Gather the sums that are asked for in one pass over the scores; no gradient flows through.

    Args:
        scores: the attention.
        entropy: whether to sum each row's entropy; so for `square`.
        square: Σ_j p².
        column: the mass on every key.
        column_log: what the entropy of a column needs beside its mass.
        rows: queries of a tile.
        keys: keys of a tile, a multiple of `rows`.
    """
    batch, heads, length, _ = scores.query.shape
    lines = batch * heads

    def zeros(wanted: bool, dtype: torch.dtype) -> Tensor | None:
        return scores.lse.new_zeros((lines, length), dtype=dtype) if wanted else None

    groups = heads // scores.key.shape[1]
    key = scores.key.float() if groups == 1 else scores.key.float().repeat_interleave(groups, 1)
    together = max(1, TILE // (min(rows, length) * min(keys, length)))
    room = min(together, lines) * min(rows, length) * min(keys, length)
    flat = _Sweep(
        query=scores.query.float().flatten(0, 1),
        key=key.flatten(0, 1),
        scale=scores.scale,
        minus_lse=-scores.lse.flatten(0, 1)[..., None],
        weight=scores.weight.flatten(0, 1)[:, None],
        sums=Sums(
            zeros(entropy, torch.float32),
            zeros(square, torch.float32),
            zeros(column, torch.float64),
            zeros(column_log, torch.float64),
        ),
        room=(scores.lse.new_empty(room), scores.lse.new_empty(room)),
    )
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        for begin, end in _spans(scores, start, stop, keys):
            for first in range(0, lines, together):
                part = slice(first, min(first + together, lines))
                hidden = _hidden(scores, part, (start, stop), (begin, end))
                flat.add(part, slice(start, stop), slice(begin, end), hidden)
    found = flat.sums
    parts = (found.entropy, found.square, found.column, found.column_log)
    return Sums(*(None if p is None else p.unflatten(0, (batch, heads)) for p in parts))


def _spans(scores: Scores, start: int, stop: int, keys: int) -> Iterator[tuple[int, int]]:
    """Ranges of keys that any of the queries [start, stop) sees."""
    first, last = 0, stop
    if scores.mask is not None:
        seen = scores.mask[:, 0, start:stop].any(0).any(0).nonzero()
        first, last = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
    elif scores.window is not None:
        first = max(0, start - scores.window + 1)
    for begin in range(first, last, keys):
        yield begin, min(begin + keys, last)


def _hidden(
    scores: Scores, part: slice, rows: tuple[int, int], keys: tuple[int, int]
) -> Bool[Tensor, "lines rows keys"] | Bool[Tensor, "1 rows last_keys"] | None:
    """Which of the last keys of a tile each query cannot see; None if it sees them all."""
    (start, stop), (begin, end) = rows, keys
    if scores.mask is not None:
        tile = scores.mask[:, 0, start:stop, begin:end]
        if len(tile) > 1:
            heads = scores.query.shape[1]
            lines = torch.arange(part.start, part.stop, device=tile.device)
            tile = tile[lines // heads]
        return ~tile
    if scores.window is None:
        if end <= start:
            return None
        # Only the square on the diagonal reaches into the future.
        begin = start
    query = torch.arange(start, stop, device=scores.query.device)[:, None]
    key = torch.arange(begin, end, device=scores.query.device)[None]
    hidden = key > query
    if scores.window is not None:
        hidden |= key <= query - scores.window
    return hidden[None]


@dataclass
class _Sweep:
    """Batch and heads in one dimension, the sums so far, and room for two tiles.

    Tiles of ever other sizes would leave holes in the heap, so their room is taken once.
    """

    query: Tensor
    key: Tensor
    scale: float
    minus_lse: Tensor
    weight: Tensor
    sums: Sums
    room: tuple[Tensor, Tensor]

    def add(self, part: slice, rows: slice, keys: slice, hidden: Tensor | None) -> None:
        """Take one tile."""
        sums = self.sums
        query, key = self.query[part, rows], self.key[part, keys].mT
        shape = (len(query), query.shape[1], key.shape[2])
        logs, weights = (room[: math.prod(shape)].view(shape) for room in self.room)
        torch.baddbmm(self.minus_lse[part, rows], query, key, alpha=self.scale, out=logs)
        if hidden is not None:
            logs[..., -hidden.shape[-1] :].masked_fill_(hidden, _HIDDEN)
        torch.exp(logs, out=weights)
        counted = self.weight[part, :, rows]
        if sums.column is not None:
            sums.column[part, keys] += torch.bmm(counted, weights)[:, 0]
        if sums.square is not None:
            sums.square[part, rows] += torch.linalg.vecdot(weights, weights)
        if sums.entropy is not None:
            sums.entropy[part, rows] -= torch.linalg.vecdot(weights, logs)
        if sums.column_log is not None:
            # log(w p) = log w + log p, the first of them the same for a whole row.
            own = torch.special.xlogy(counted, counted)
            both = torch.bmm(own, weights) + torch.bmm(counted, weights.mul_(logs))
            sums.column_log[part, keys] += both[:, 0]
