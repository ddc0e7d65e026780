"""Seeded noise for each row of a batch: the null of an intervention."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError


def seed_of(*keys: int) -> int:
    """One seed from several whole numbers of 0 or more; near keys give unrelated seeds."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])


class Noise:
    """Unit vectors for each row and position, drawn position by position and then kept.

    A row's vectors depend on its seed alone, not on the batch that it runs in.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.seed = seed
        self.generators: list[torch.Generator] = []
        self.drawn: list[Tensor] = []

    def at(
        self,
        position_ids: Int[Tensor, "rows length"] | None,
        like: Float[Tensor, "batch length width"],
    ) -> Float[Tensor, "batch length width"]:
        """Unit vectors for the tokens at `position_ids`, which count from 0 if not given.

        Raises:
            InputError: the seeds, or the rows of an earlier pass, were not as many as these rows.
        """
        batch, length, width = like.shape
        if not self.generators:
            self.generators = [torch.Generator().manual_seed(seed) for seed in self._seeds(batch)]
        if len(self.generators) != batch:
            raise InputError(
                f"the noise was drawn for a batch of {len(self.generators)}, but this pass has "
                f"{batch} rows; open a context of its own for each batch."
            )
        if position_ids is None:
            position_ids = torch.arange(length)[None]
        positions = position_ids.cpu().expand(batch, -1)
        while len(self.drawn) <= int(positions.max()):
            draw = torch.stack([torch.randn(width, generator=each) for each in self.generators])
            self.drawn.append(draw / draw.norm(dim=-1, keepdim=True))
        return torch.stack(self.drawn, 1)[torch.arange(batch)[:, None], positions]

    def _seeds(self, batch: int) -> Sequence[int]:
        if isinstance(self.seed, int):
            return [seed_of(self.seed, row) for row in range(batch)]
        return self.seed
