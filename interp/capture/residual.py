"""Recorders of the residual stream: norms, massive activations, the pooled median.

Massive activations as Sun et al. (arXiv 2402.17762, §2), residual peak as Guo et al. (2410.13835).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.capture.recorder import LayerBatch, Needs, Recorder, RowRecorder
from interp.model.loaded import LoadedModel
from interp.model.sites import Site

# Sun et al. §2: |x| above the first, and at least the second times the median.
MASSIVE_ABSOLUTE, MASSIVE_RATIO = 100.0, 1000.0


class ResidualNorms(RowRecorder):
    """The residual stream after each block, at the embedding and after the final norm.

    `first` = ‖h_1‖, `rest` = mean ‖h_j‖ over the other tokens, `max_abs` = the largest |entry|.
    """

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """`resid_post` of all layers, `embed` and `final_norm`."""
        return Needs(_residual_sites(checkpoint))

    def update(self, batch: LayerBatch) -> None:
        """Norms and maxima over real tokens."""
        hidden = _residual(batch)
        self.keep_first_and_rest(batch, "", hidden.norm(dim=-1))
        largest = hidden.abs().amax(-1).masked_fill(~batch.real, 0.0).amax(-1)
        self.keep(batch, "max_abs", largest)


class MassiveActivations(RowRecorder):
    """The largest entries of each hidden state, to hold against Sun et al.'s criterion.

    For each row and layer the `top` largest |x|: `value` (signed), `position`, `dim`; `median` of
    |x| over the row's whole hidden state; `count` of the entries with |x| > `absolute` and
    |x| ≥ `ratio` · median (§2: 100 and 1000).
    """

    def __init__(
        self, absolute: float = MASSIVE_ABSOLUTE, ratio: float = MASSIVE_RATIO, top: int = 8
    ) -> None:
        super().__init__()
        self.absolute, self.ratio, self.top = absolute, ratio, top

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """`resid_post` of all layers."""
        layers = range(checkpoint.anatomy.n_layers)
        return Needs(frozenset(Site("resid_post", layer) for layer in layers))

    def update(self, batch: LayerBatch) -> None:
        """Find the top entries row by row."""
        hidden = batch.site("resid_post")
        width = hidden.shape[-1]
        size = hidden.abs().masked_fill(~batch.real[..., None], -1.0).flatten(1)
        values, index = size.topk(min(self.top, size.shape[1]), dim=1)
        medians = torch.stack(
            [h[real].abs().median() for h, real in zip(hidden, batch.real, strict=True)]
        )
        massive = (size > self.absolute) & (size >= self.ratio * medians[:, None])
        self.keep(batch, "value", hidden.flatten(1).gather(1, index).where(values >= 0, 0.0))
        self.keep(batch, "position", index // width)
        self.keep(batch, "dim", index % width)
        self.keep(batch, "median", medians)
        self.keep(batch, "count", massive.sum(1))


class MedianMagnitude(Recorder):
    """The median |entry| of each hidden state, pooled over all tokens of all rows.

    A pooled median needs all entries, so they are counted in bins of the float itself: its
    exponent and the upper 17 bits of its mantissa. Counts add up exactly; the bin's middle is
    within 4e-6 of the (lower) median, relative. `result` maps a layer to it; the embedding and
    the final norm have the keys `EMBED` and `FINAL` of `interp.records`.
    """

    _DROPPED = 6

    def __init__(self) -> None:
        self._counts: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """The same as `ResidualNorms`."""
        return Needs(_residual_sites(checkpoint))

    def update(self, batch: LayerBatch) -> None:
        """Count the bins of the real tokens' entries."""
        hidden = _residual(batch)
        batch.require_finite("hidden state", hidden.masked_fill(~batch.real[..., None], 0.0))
        entries = hidden[batch.real].abs()
        bins, counts = torch.unique(entries.view(torch.int32) >> self._DROPPED, return_counts=True)
        self._add(batch.key, bins.cpu().numpy(), counts.cpu().numpy())

    def _add(self, layer: int, bins: NDArray[Any], counts: NDArray[Any]) -> None:
        if layer in self._counts:
            old_bins, old_counts = self._counts[layer]
            bins, where = np.unique(np.concatenate([old_bins, bins]), return_inverse=True)
            total = np.zeros(len(bins), dtype=np.int64)
            np.add.at(total, where, np.concatenate([old_counts, counts]))
            counts = total
        self._counts[layer] = (bins, counts)

    def fresh(self) -> "MedianMagnitude":
        """An empty recorder."""
        return type(self)()

    def state(self) -> dict[str, NDArray[Any]]:
        """Bins and counts by layer."""
        return {
            f"{layer}/{part}": array
            for layer, pair in self._counts.items()
            for part, array in zip(("bins", "counts"), pair, strict=True)
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take in a shard."""
        for key, bins in state.items():
            if key.endswith("/bins"):
                layer = key.removesuffix("/bins")
                self._add(int(layer), bins, state[f"{layer}/counts"])

    def result(self) -> dict[int, float]:
        """Layer to median."""
        medians = {}
        for layer, (bins, counts) in self._counts.items():
            cumulative = np.cumsum(counts)
            middle = (cumulative[-1] + 1) // 2
            chosen = int(bins[np.searchsorted(cumulative, middle)])
            bits = (chosen << self._DROPPED) + (1 << (self._DROPPED - 1))
            medians[layer] = float(np.array([bits], dtype=np.int32).view(np.float32)[0])
        return medians


def _residual_sites(checkpoint: LoadedModel) -> frozenset[Site]:
    layers = range(checkpoint.anatomy.n_layers)
    blocks = {Site("resid_post", layer) for layer in layers}
    return frozenset(blocks | {Site("embed"), Site("final_norm")})


def _residual(batch: LayerBatch) -> Tensor:
    if batch.layer is not None:
        return batch.site("resid_post")
    return batch.site("embed" if "embed" in batch.tensors else "final_norm")
