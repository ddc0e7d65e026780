"""What every head adds to a probe's logit at one token, with the final norm folded in.

Yin et al. (arXiv 2510.06036) project each head's output on the probe and leave out the norm that
stands between the two; here its gain and scale are part of the sum (`linear_reading`), so that
heads, MLPs, embedding and bias add up to the logit. A contribution is direct: what a head does
through later layers is in theirs, and only ablation shows it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture.heads import output_slices
from interp.capture.recorder import FINAL, LayerBatch, Needs, RowRecorder
from interp.capture.run import capture
from interp.data.rows import Row
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from probes.heads.linear_reading import FrozenNorm, attention_norm, output_bias


@dataclass(frozen=True)
class Contributions:
    """Parts of a probe's logit at one token of every row; they add up to `logit`.

    Attributes:
        heads: of each layer; NaN in layers without softmax attention and where a layer has fewer.
        mlp: of each layer.
        other: of each layer: biases of the attention, and layers without softmax attention.
        embedding: what the residual stream began with.
        bias: of probe and final norm, the same for all rows.
        logit: of the probe, as it reads the final norm's own output.
    """

    heads: Float[np.ndarray, "rows layers heads"]
    mlp: Float[np.ndarray, "rows layers"]
    other: Float[np.ndarray, "rows layers"]
    embedding: Float[np.ndarray, " rows"]
    bias: float
    logit: Float[np.ndarray, " rows"]

    @property
    def total(self) -> Float[np.ndarray, " rows"]:
        """Sum of all parts."""
        parts = np.nansum(self.heads, (1, 2)) + self.mlp.sum(1) + self.other.sum(1)
        return np.asarray(parts + self.embedding + self.bias)

    def ranked(self) -> pd.DataFrame:
        """A row a head, the strongest suppression first: layer, head, contribution, rank from 1."""
        mean = self.heads.mean(0)
        found = [
            {"layer": layer, "head": head, "contribution": float(mean[layer, head])}
            for layer, head in np.argwhere(~np.isnan(mean)).tolist()
        ]
        table = pd.DataFrame(found, columns=["layer", "head", "contribution"])
        table = table.sort_values("contribution", kind="stable", ignore_index=True)
        return table.assign(rank=np.arange(1, len(table) + 1))


def head_contributions(
    checkpoint: LoadedModel,
    rows: Sequence[Row],
    coef: Float[np.ndarray, " width"],
    intercept: float,
    *,
    position: int = -1,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Contributions:
    """Take the logit of a probe on the final norm's output apart.

    Args:
        checkpoint: what to run.
        rows: that end with the token at which the probe is read, or behind it.
        coef: of the probe, in raw coordinates.
        intercept: of the probe.
        position: of the token, counted back from the end of the row, which is −1.
        batch_tokens: most tokens in a batch.
        workdir: where a stopped run goes on from.
        progress: called with (rows done, rows in all).

    Raises:
        InputError: the probe is of another width, or a row is too short.
        UnsupportedModelError: a norm on the way is neither an RMSNorm nor a LayerNorm.
    """
    width = checkpoint.anatomy.width
    if len(coef) != width:
        raise InputError(f"the probe reads {len(coef)} numbers, and the model has {width}.")
    if position >= 0 or min(map(len, rows), default=0) < -position:
        raise InputError(f"position {position} is in no row, or not counted back from its end.")
    final = FrozenNorm.of(checkpoint.final_norm, width)
    weight = torch.tensor(coef, dtype=torch.float64, device=final.gain.device)
    reader = _Parts(final.pulled_back(weight).cpu(), position)
    capture(
        checkpoint, rows, [reader], batch_tokens=batch_tokens, workdir=workdir, progress=progress
    )
    found = reader.result()
    order = np.argsort(np.argsort([row.index for row in rows]))
    last = checkpoint.anatomy.n_layers - 1
    state = torch.tensor(found.at("state", last)[order], device=final.gain.device).double()
    normed = torch.tensor(found.at("normed", FINAL)[order], device=final.gain.device).double()
    scale = final.scale(state, normed).cpu().numpy()  # [rows, 1]
    heads = _padded([found.at("heads", i)[order] if i in found.layers("heads") else None
                     for i in range(last + 1)], len(rows))  # fmt: skip
    read = {
        name: found.stack(name)[order].astype(np.float64) * scale
        for name in ("mlp", "other", "embedding")
    }
    return Contributions(
        heads=heads * scale[..., None],
        mlp=read["mlp"],
        other=read["other"],
        embedding=read["embedding"][:, 0],
        bias=float(weight @ final.bias) + intercept,
        logit=(normed @ weight).cpu().numpy() + intercept,
    )


@dataclass(frozen=True)
class DirectParts:
    """What each part wrote along a direction at one token of every row.

    Attributes:
        heads: of each layer; NaN where a layer has fewer, or no softmax attention.
        mlp: of each layer.
        other: of each layer: biases of the attention, and layers without softmax attention.
        embedding: what the residual stream began with.
    """

    heads: Float[np.ndarray, "rows layers heads"]
    mlp: Float[np.ndarray, "rows layers"]
    other: Float[np.ndarray, "rows layers"]
    embedding: Float[np.ndarray, " rows"]


def direct_parts(
    checkpoint: LoadedModel,
    rows: Sequence[Row],
    direction: Float[np.ndarray, " width"],
    *,
    position: int = -1,
    batch_tokens: int = 8192,
) -> DirectParts:
    """Take the projection of the residual stream on a direction apart, without any norm.

    The embedding and all parts of the layers before l add up to the projection at `resid_pre` l.

    Args:
        checkpoint: what to run.
        rows: that hold the token.
        direction: projected on; its length counts.
        position: of the token, counted back from the end of the row, which is −1.
        batch_tokens: most tokens in a batch.
    """
    reader = _Parts(torch.tensor(direction, dtype=torch.float64), position)
    capture(checkpoint, rows, [reader], batch_tokens=batch_tokens)
    found = reader.result()
    order = np.argsort(np.argsort([row.index for row in rows]))
    layers = range(checkpoint.anatomy.n_layers)
    heads = [found.at("heads", i)[order] if i in found.layers("heads") else None for i in layers]
    return DirectParts(
        heads=_padded(heads, len(rows)),
        mlp=found.stack("mlp")[order].astype(np.float64),
        other=found.stack("other")[order].astype(np.float64),
        embedding=found.stack("embedding")[order][:, 0].astype(np.float64),
    )


class _Parts(RowRecorder):
    """Scalar products of what each part wrote with one direction, at one token of every row."""

    def __init__(self, direction: Float[Tensor, " width"], position: int) -> None:
        super().__init__()
        self.direction, self.position = direction, position

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """The stream around every layer, its parts, and the final norm."""
        sites = {Site("final_norm")}
        for number, layer in enumerate(checkpoint.anatomy.layers):
            names = {"resid_pre", "resid_post", "mlp_out"}
            if "z" in layer.sites:
                names |= {"z", "attn_out"}
            sites |= {Site(name, number) for name in names & set(layer.sites)}
        return Needs(frozenset(sites))

    def update(self, batch: LayerBatch) -> None:
        """Read one layer, or the final norm."""
        at = batch.lengths + self.position
        rows = torch.arange(len(at), device=at.device)

        def state(name: str) -> Tensor:
            values = batch.site(name)
            return values[rows.to(values.device), at.to(values.device)].double()

        if batch.layer is None:
            self.keep(batch, "normed", state("final_norm").float())
            return
        direction = self.direction.to(batch.site("resid_pre").device)
        before, after = state("resid_pre"), state("resid_post")
        rest = (after - before) @ direction
        has_mlp = "mlp_out" in batch.tensors
        mlp = state("mlp_out") @ direction if has_mlp else torch.zeros_like(rest)
        self.keep(batch, "mlp", mlp)
        rest = rest - mlp
        if "z" in batch.tensors:
            heads = _heads(batch, state("z"), state("attn_out"), direction)
            self.keep(batch, "heads", heads)
            rest = rest - heads.sum(-1)
        self.keep(batch, "other", rest)
        if batch.layer == 0:
            self.keep(batch, "embedding", before @ direction)
        if batch.layer == batch.checkpoint.anatomy.n_layers - 1:
            self.keep(batch, "state", after.float())


def _heads(
    batch: LayerBatch,
    z: Float[Tensor, "batch heads dim"],
    written: Float[Tensor, "batch width"],
    direction: Float[Tensor, " width"],
) -> Float[Tensor, "batch heads"]:
    """Each head's part of `written` along a direction, through a closing norm if there is one."""
    checkpoint, layer = batch.checkpoint, batch.layer_index
    slices = output_slices(checkpoint, layer).double().to(z.device)
    norm = attention_norm(checkpoint, layer)
    if norm is None:
        return torch.einsum("bhd,hwd,w->bh", z, slices, direction)
    frozen = FrozenNorm.of(norm, len(direction))
    raw = torch.einsum("bhd,hwd->bw", z, slices) + output_bias(checkpoint, layer).to(z.device)
    scale = frozen.scale(raw, written)
    return scale * torch.einsum("bhd,hwd,w->bh", z, slices, frozen.pulled_back(direction))


def _padded(
    layers: Sequence[np.ndarray | None], rows: int
) -> Float[np.ndarray, "rows layers heads"]:
    most = max((one.shape[1] for one in layers if one is not None), default=0)
    found = np.full((rows, len(layers), most), np.nan)
    for number, one in enumerate(layers):
        if one is not None:
            found[:, number, : one.shape[1]] = one
    return found
