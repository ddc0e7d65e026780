"""Batches of token ids for the tiny models, padded or not."""

from dataclasses import dataclass
from typing import Any

import torch
from families import VOCAB
from torch import Tensor

PADDINGS = ("none", "left", "right")


@dataclass(frozen=True)
class Batch:
    """Token ids with the mask and positions that go with them."""

    ids: Tensor
    real: Tensor

    @property
    def positions(self) -> Tensor:
        """Counted from each row's first real token."""
        return (self.real.long().cumsum(1) - 1).clamp_min(0)

    def arguments(self) -> dict[str, Any]:
        """What a model's forward is called with."""
        return {
            "input_ids": self.ids,
            "attention_mask": self.real.long(),
            "position_ids": self.positions,
            "use_cache": False,
        }


def batch(padding: str, length: int = 21, amount: int = 5) -> Batch:
    """Three rows of random tokens; all but the first are padded, by `amount` and by one."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCAB, (3, length), generator=generator)
    real = torch.ones(3, length, dtype=torch.bool)
    for row, count in ((1, amount), (2, 1)):
        if padding == "left":
            real[row, :count] = False
        elif padding == "right":
            real[row, length - count :] = False
    return Batch(ids.masked_fill(~real, 0), real)
