"""Several processes, one result: what `torchrun` asks of a capture."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from interp.capture.recorder import Recorder


@dataclass(frozen=True)
class Group:
    """This process among its peers; a single process is rank 0 of 1."""

    rank: int = 0
    size: int = 1

    def merge(self, recorders: Sequence[Recorder]) -> None:
        """Give every rank what all ranks recorded, in the order of ranks."""
        if self.size == 1:
            return
        everyone = self.gather([recorder.state() for recorder in recorders])
        for rank, states in enumerate(everyone):
            if rank == self.rank:
                continue
            for recorder, state in zip(recorders, states, strict=True):
                recorder.load_state(state)

    def gather(self, mine: Any) -> list[Any]:
        """What every rank holds, in the order of ranks."""
        everyone: list[Any] = [mine]
        if self.size > 1:
            everyone = [None] * self.size
            distributed.all_gather_object(everyone, mine)
        return everyone


@contextmanager
def group() -> Iterator[Group]:
    """The process group of `torchrun`, begun here if nobody has; a plain run needs none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    begun = not distributed.is_initialized()
    if begun:
        # What is gathered lies in host memory, which gloo moves, also where ranks share a GPU.
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        )
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        if begun:
            distributed.destroy_process_group()
