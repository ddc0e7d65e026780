"""The hooks by which a guard reads the states of one token of every row in a prefill."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.data.segments import t_inst
from interp.errors import InputError
from interp.model.sites import Site, site_hook
from probes.guards.readout import SITE, Readout


class PrefillStopped(Exception):
    """Raised behind the last layer that is read, to end a pass of which nothing else is wanted."""


class PrefillReader:
    """Reads the output of some layers at t_inst of every row, in the first pass that is run.

    A layer's hook gathers one vector a row; nothing is scored and nothing synchronised before the
    last of them. Then all hooks are taken away, so that decoding runs without them.
    """

    def __init__(
        self, checkpoint: Checkpoint, readout: Readout, rows: Sequence[Row], *, stop: bool = False
    ) -> None:
        self.checkpoint, self.readout, self.rows, self.stop = checkpoint, readout, rows, stop
        self.score = readout.on(_device(checkpoint, readout.layers[-1]))
        self.found: Float[Tensor, " rows"] | None = None
        self._expected = [torch.tensor(row.ids) for row in rows]
        self._gathered: list[Tensor] = []
        self._index: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._handles: list[Any] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Attach the hooks; they are gone when this ends, however it ends."""
        try:
            embedding = self.checkpoint.embedding
            self._handles.append(embedding.register_forward_pre_hook(self._locate))
            for layer in self.readout.layers:
                hook = site_hook(self.checkpoint, Site(SITE, layer))
                if hook is None:
                    raise InputError(f"{self.checkpoint.name} has no {SITE} that can be read.")
                self._handles.append(hook.module.register_forward_hook(self._gather))
            yield
        finally:
            self._remove()

    def _locate(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Find each announced row in the batch, flush right or flush left."""
        ids = args[0].cpu()
        if ids.ndim != 2 or len(ids) != len(self.rows):
            raise InputError(
                f"{len(self.rows)} rows were announced to the guard, and the pass has the shape "
                f"{list(ids.shape)}; announce every row of the batch (beams and repeated samples "
                "count), and run the prefill in one piece."
            )
        columns = [
            _begin(given, expected, row) + t_inst(row)
            for given, expected, row in zip(ids, self._expected, self.rows, strict=True)
        ]
        self._index = {torch.device("cpu"): (torch.arange(len(columns)), torch.tensor(columns))}

    def _gather(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if not self._index:
            raise InputError(
                "the pass was given embeddings instead of token ids, so the guard cannot tell "
                "where the instruction ends; call the model with input_ids."
            )
        self._gathered.append(hidden.detach()[self._at(hidden.device)])
        if len(self._gathered) == len(self.readout.layers):
            last = self._gathered[-1].device
            states = torch.stack([one.to(last, non_blocking=True) for one in self._gathered])
            self.found = self.score(states)
            self._remove()
            if self.stop:
                raise PrefillStopped

    def _at(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._index:
            rows, columns = self._index[torch.device("cpu")]
            self._index[device] = (
                rows.to(device, non_blocking=True),
                columns.to(device, non_blocking=True),
            )
        return self._index[device]

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _begin(given: Tensor, expected: Tensor, row: Row) -> int:
    for begin in (len(given) - len(expected), 0):
        if begin >= 0 and torch.equal(given[begin : begin + len(expected)], expected):
            return begin
    raise InputError(
        f"the pass does not hold row {row.index} as it was announced, neither at its left nor at "
        "its right end; announce the rows in the order of the batch, with the chat template that "
        "the guard was fitted with."
    )


def _device(checkpoint: Checkpoint, layer: int) -> torch.device:
    return next(checkpoint.layers[layer].parameters()).device
