"""Recorders: accumulators that a capture feeds.

A recorder says what it needs, is updated with one `LayerBatch` after another, and keeps one small
reduced record for each row. So two recorders of the same kind merge exactly, whatever rank or run
they come from: the records are put side by side, sorted by row, and only then averaged.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from interp.attention.kernels import AttentionStatistics, Demand
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.model.loaded import LoadedModel
from interp.model.sites import Site

# Layer keys of the two sites outside of the layers.
EMBED, FINAL = -1, 1_000_000


@dataclass(frozen=True)
class Needs:
    """What a recorder wants to see: sites, attention statistics by layer, and chosen keys."""

    sites: frozenset[Site] = frozenset()
    demands: Mapping[int, Demand] = field(default_factory=dict)
    keys: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerBatch:
    """What one layer showed of one batch; it is gone when the next layer starts.

    Rows are right-padded: `real` marks tokens, position 0 is the first. `layer` is None for the
    sites `embed` and `final_norm`. `source` holds the rows themselves; `cache` lives as long as
    the capture, for what recorders derive from the weights.
    """

    checkpoint: LoadedModel
    layer: int | None
    rows: Int[Tensor, " batch"]
    real: Bool[Tensor, "batch length"]
    tensors: Mapping[str, Tensor]
    statistics: AttentionStatistics | None = None
    keys: tuple[int, ...] = ()
    source: tuple[Row, ...] = ()
    cache: dict[Any, Any] = field(default_factory=dict)

    def site(self, name: str) -> Tensor:
        """The site's tensor in float32.

        Raises:
            InputError: it was not captured.
        """
        if name not in self.tensors:
            raise InputError(
                f"site {name!r} of layer {self.layer} was not captured; captured are "
                f"{', '.join(self.tensors) or 'none'}."
            )
        return self.tensors[name].float()

    @property
    def attention(self) -> AttentionStatistics:
        """The layer's attention statistics.

        Raises:
            InputError: none were demanded.
        """
        if self.statistics is None:
            raise InputError(f"attention statistics of layer {self.layer} were not demanded")
        return self.statistics

    @property
    def layer_index(self) -> int:
        """The layer, where there is one."""
        if self.layer is None:
            raise InputError("this batch belongs to no layer")
        return self.layer

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens in each row."""
        return self.real.sum(1)

    @property
    def key(self) -> int:
        """The layer, or the key that stands for the embedding or the final norm."""
        if self.layer is not None:
            return self.layer
        return EMBED if "embed" in self.tensors else FINAL

    def require_finite(self, what: str, values: Shaped[Tensor, "batch *rest"]) -> None:
        """Check that nothing recorded is NaN or infinite.

        Raises:
            NumericalError: naming the quantity, the layer and the first row it happens in.
        """
        finite = torch.isfinite(values)
        if bool(finite.all()):
            return
        bad = int((~finite).reshape(len(finite), -1).any(1).nonzero()[0])
        where = "" if self.layer is None else f" of layer {self.layer}"
        raise NumericalError(
            f"{what}{where} is NaN or infinite in row {int(self.rows[bad])}; load the model in "
            "float32 or bfloat16, or leave that row out."
        )

    def mass_on(self, position: int) -> Float[Tensor, "batch heads length"]:
        """A_{i,position} for every query i; zero at padding."""
        chosen = self.attention.chosen
        if chosen is None:
            raise InputError(f"chosen keys of layer {self.layer} were not demanded")
        return chosen[..., self.keys.index(position)]

    def mean(
        self, values: Float[Tensor, "batch *heads length"], start: int = 0
    ) -> Float[Tensor, "batch *heads"]:
        """Mean over the tokens from `start` on, in float64."""
        counted = self.real.clone()
        counted[:, :start] = False
        shape = (counted.shape[0],) + (1,) * (values.ndim - 2) + (counted.shape[1],)
        weights = counted.reshape(shape).double()
        total = torch.where(weights > 0, values.double(), torch.zeros_like(weights)).sum(-1)
        return (total / weights.sum(-1).clamp_min(1)).float()


class Recorder(ABC):
    """Base of all recorders; `describe` tells two differently set ones apart."""

    @abstractmethod
    def needs(self, checkpoint: LoadedModel) -> Needs:
        """What the capture has to show."""

    @abstractmethod
    def update(self, batch: LayerBatch) -> None:
        """Take in one layer of one batch."""

    @abstractmethod
    def fresh(self) -> "Recorder":
        """An empty recorder with the same settings."""

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """Everything held, as arrays for a shard."""

    @abstractmethod
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take in what `state` of another recorder gave."""

    def merge(self, other: "Recorder") -> None:
        """Take in everything that `other` holds; exact, in any order.

        Raises:
            InputError: `other` is of another kind, or set differently.
        """
        if other.describe() != self.describe():
            raise InputError(f"{other.describe()} cannot be merged into {self.describe()}.")
        self.load_state(other.state())

    def describe(self) -> str:
        """Kind and settings."""
        settings = {k: v for k, v in sorted(vars(self).items()) if not k.startswith("_")}
        return f"{type(self).__name__}({settings})"


@dataclass(frozen=True)
class RowRecords:
    """Per-row arrays by quantity and layer.

    `rows` holds the row indices in ascending order; `by_layer[name][layer]` is [rows, ...]. Row
    arrays of unequal length are padded with NaN.
    """

    rows: NDArray[Any]
    by_layer: dict[str, dict[int, NDArray[Any]]]

    def layers(self, name: str) -> list[int]:
        """The layers that have this quantity, ascending."""
        return sorted(self._of(name))

    def stack(self, name: str) -> NDArray[Any]:
        """The quantity as [rows, layers, ...], layers ascending."""
        here = self._of(name)
        return np.stack([here[layer] for layer in sorted(here)], axis=1)

    def at(self, name: str, layer: int) -> NDArray[Any]:
        """The quantity of one layer, [rows, ...]."""
        return self._of(name)[layer]

    def __contains__(self, name: str) -> bool:
        return name in self.by_layer

    def _of(self, name: str) -> dict[int, NDArray[Any]]:
        if name not in self.by_layer:
            raise InputError(
                f"no quantity {name!r} was recorded; recorded are {', '.join(self.by_layer)}."
            )
        return self.by_layer[name]


class RowRecorder(Recorder):
    """A recorder of per-row quantities; subclasses call `keep` from `update`."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[str, int], list[tuple[Any, Any]]] = {}

    def keep(
        self, batch: LayerBatch, name: str, values: Tensor, missing: Tensor | None = None
    ) -> None:
        """Store one value or array for each row of the batch.

        Args:
            batch: where the values come from.
            name: of the quantity.
            values: [batch, ...].
            missing: of the same shape, True where the quantity is undefined; NaN is stored there.

        Raises:
            NumericalError: a value is NaN or infinite; names layer and row.
        """
        if missing is not None:
            batch.require_finite(name, values.masked_fill(missing, 0.0))
            values = values.masked_fill(missing, math.nan)
        else:
            batch.require_finite(name, values)
        chunk = (batch.rows.cpu().numpy(), values.detach().cpu().numpy())
        self._chunks.setdefault((name, batch.key), []).append(chunk)

    def keep_first_and_rest(
        self, batch: LayerBatch, prefix: str, norms: Float[Tensor, "batch *heads length"]
    ) -> None:
        """Store the first token's norm, and the mean of the others', as `first` and `rest`."""
        self.keep(batch, f"{prefix}first", norms[..., 0])
        self.keep(batch, f"{prefix}rest", batch.mean(norms, 1))

    def fresh(self) -> "RowRecorder":
        """An empty recorder with the same settings."""
        twin = object.__new__(type(self))
        twin.__dict__.update({k: v for k, v in vars(self).items() if k != "_chunks"})
        twin._chunks = {}
        return twin

    def state(self) -> dict[str, NDArray[Any]]:
        """Rows and values of every quantity and layer."""
        state = {}
        for (name, layer), chunks in self._chunks.items():
            rows, values = _join(chunks)
            state[f"{name}/{layer}/rows"], state[f"{name}/{layer}/values"] = rows, values
        return state

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take in a shard."""
        for key, rows in state.items():
            if key.endswith("/rows"):
                name, layer, _ = key.rsplit("/", 2)
                values = state[f"{name}/{layer}/values"]
                self._chunks.setdefault((name, int(layer)), []).append((rows, values))

    def result(self) -> RowRecords:
        """All records, sorted by row.

        Raises:
            InputError: nothing was recorded, or a row was recorded twice.
        """
        if not self._chunks:
            raise InputError(f"{type(self).__name__} has recorded nothing.")
        by_layer: dict[str, dict[int, NDArray[Any]]] = {}
        index = np.array([], dtype=np.int64)
        for (name, layer), chunks in self._chunks.items():
            rows, values = _join(chunks)
            order = np.argsort(rows, kind="stable")
            index = rows[order]
            if (np.diff(index) == 0).any():
                raise InputError(
                    f"{type(self).__name__} has seen a row twice; merge disjoint runs."
                )
            by_layer.setdefault(name, {})[layer] = values[order]
        return RowRecords(index, by_layer)


def _join(chunks: Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    chunks = list(chunks)
    rows = np.concatenate([rows for rows, _ in chunks])
    values = [values for _, values in chunks]
    longest = max((v.shape[-1] for v in values if v.ndim > 1), default=0)
    padded = [
        v
        if v.ndim == 1 or v.shape[-1] == longest
        else np.pad(
            v.astype(np.float32, copy=False),
            [(0, 0)] * (v.ndim - 1) + [(0, longest - v.shape[-1])],
            constant_values=np.nan,
        )
        for v in values
    ]
    return rows, np.concatenate(padded)
