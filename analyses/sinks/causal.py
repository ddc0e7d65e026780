"""The causal panel: what a head is worth, on a few short sequences.

For each head the change in loss when it is silenced, when it attends to the first token alone, and
when as much noise is added as it writes. A dormant head is one that can be silenced and moved at no
cost (Guo et al., arXiv 2410.13835); noise of the same norm is the null.

Only the layers from the edited one on run again: its `resid_pre` is stored and the pass starts
there, with many heads in one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.capture import ranks
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row
from interp.errors import NumericalError
from interp.interventions.edits_by_site import move_to_sink, perturb_heads, zero_heads
from interp.interventions.noise import seed_of
from interp.interventions.replay import start_at
from interp.resume.files import once

EDITS = ("ablation", "move_to_sink", "random")
# Logits held at a time, in entries.
_MOST_LOGITS = 1 << 27


@dataclass(frozen=True)
class CausalEffects:
    """Change in mean next-token loss, nats per token, for each row, layer and head.

    `delta[edit]` is [rows, layers, heads] over `layers`, padded with NaN where a layer has fewer
    heads or an edit does not apply (a window that cannot see the first token). `loss` is [rows].
    """

    rows: tuple[int, ...]
    domains: tuple[str, ...]
    layers: tuple[int, ...]
    loss: NDArray[np.float64]
    delta: dict[str, NDArray[np.float64]]


def causal_effects(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    *,
    seed: int,
    batch_tokens: int,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CausalEffects:
    """Edit every head of every softmax layer on `rows`, all in one batch.

    Ranks share the layers. In a work folder each finished layer leaves a file, so that a stopped
    run goes on where it was.

    Raises:
        NumericalError: a loss is NaN or infinite.
    """
    anatomy = checkpoint.anatomy
    inputs = padded(rows, checkpoint)
    layers = anatomy.softmax_layers
    with ranks.group() as group:
        mine = layers[group.rank :: group.size]
        done, total = 0, sum(anatomy.layers[layer].heads for layer in mine)
        by_layer: dict[int, dict[str, NDArray[np.float64]]] = {}
        for layer in mine:
            by_layer[layer] = _kept_layer(checkpoint, inputs, layer, seed, batch_tokens, workdir)
            done += anatomy.layers[layer].heads
            if progress is not None:
                progress(done, total)
        for others in group.gather(by_layer):
            by_layer |= others
    most = max(anatomy.layers[layer].heads for layer in layers)
    delta = {edit: np.full((len(rows), len(layers), most), np.nan) for edit in EDITS}
    for place, layer in enumerate(layers):
        for edit, values in by_layer[layer].items():
            delta[edit][:, place, : values.shape[1]] = values
    indices, domains = tuple(row.index for row in rows), tuple(row.domain for row in rows)
    return CausalEffects(indices, domains, layers, _loss(checkpoint, inputs), delta)


def _kept_layer(
    checkpoint: Checkpoint,
    inputs: dict[str, Tensor],
    layer: int,
    seed: int,
    batch_tokens: int,
    workdir: Path | None,
) -> dict[str, NDArray[np.float64]]:
    """One layer's effects, from the work folder if an earlier run got that far."""
    path = None if workdir is None else workdir / f"causal-{layer:04d}.safetensors"
    return once(path, lambda: _layer_effects(checkpoint, inputs, layer, seed, batch_tokens))


def _layer_effects(
    checkpoint: Checkpoint, inputs: dict[str, Tensor], layer: int, seed: int, batch_tokens: int
) -> dict[str, NDArray[np.float64]]:
    """Change in loss [rows, heads] for each edit that applies to the layer."""
    hidden = _resid_pre(checkpoint, inputs, layer)
    start = _loss_from(checkpoint, inputs, layer, hidden)
    edits = EDITS if _sees_first(checkpoint, layer, inputs) else ("ablation", "random")
    found = {}
    for edit in edits:
        pieces = [
            _edited_losses(checkpoint, inputs, layer, hidden, heads, edit, seed) - start[:, None]
            for heads in _groups(checkpoint, inputs, layer, batch_tokens)
        ]
        found[edit] = np.ascontiguousarray(np.concatenate(pieces, axis=1))
    return found


def _sees_first(checkpoint: Checkpoint, layer: int, inputs: dict[str, Tensor]) -> bool:
    here = checkpoint.anatomy.layers[layer]
    length = inputs["input_ids"].shape[1]
    visible = here.window is None or length <= here.window
    return visible and here.attention != "chunked" and checkpoint.anatomy.interface


def _groups(
    checkpoint: Checkpoint, inputs: dict[str, Tensor], layer: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Heads that share a batch: one copy of all rows for each."""
    tokens = inputs["input_ids"].numel()
    by_tokens = batch_tokens // tokens
    by_logits = _MOST_LOGITS // (tokens * checkpoint.anatomy.vocabulary)
    size = max(1, min(by_tokens, by_logits))
    heads = checkpoint.anatomy.layers[layer].heads
    for first in range(0, heads, size):
        yield list(range(first, min(first + size, heads)))


def _edited_losses(
    checkpoint: Checkpoint,
    inputs: dict[str, Tensor],
    layer: int,
    hidden: Float[Tensor, "rows length width"],
    heads: list[int],
    edit: str,
    seed: int,
) -> NDArray[np.float64]:
    """Loss [rows, heads] with one head edited at a time; all in one batch."""
    rows = hidden.shape[0]
    copies = {name: tensor.repeat(len(heads), 1) for name, tensor in inputs.items()}
    count = checkpoint.anatomy.layers[layer].heads
    mask = torch.zeros(len(heads), count, dtype=torch.bool)
    mask[torch.arange(len(heads)), torch.tensor(heads)] = True
    mask = mask.repeat_interleave(rows, 0)
    # By head and row, so that the noise is the same however many heads share a batch.
    seeds = [seed_of(seed, layer, head, row) for head in heads for row in range(rows)]
    with _edit(checkpoint, layer, mask, edit, seeds):
        losses = _loss_from(checkpoint, copies, layer, hidden.repeat(len(heads), 1, 1))
    return losses.reshape(len(heads), rows).T


def _edit(
    checkpoint: Checkpoint, layer: int, mask: Tensor, edit: str, seeds: Sequence[int]
) -> AbstractContextManager[Any]:
    if edit == "ablation":
        return zero_heads(checkpoint, layer, mask)
    if edit == "move_to_sink":
        return move_to_sink(checkpoint, layer, mask)
    return perturb_heads(checkpoint, layer, mask, seeds)


def _resid_pre(checkpoint: Checkpoint, inputs: dict[str, Tensor], layer: int) -> Tensor:
    """The residual stream before a layer, [rows, length, width]."""
    kept: list[Tensor] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append(args[0] if args else kwargs["hidden_states"])

    handle = checkpoint.layers[layer].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.inference_mode():
            checkpoint.decoder(**inputs, use_cache=False)
    finally:
        handle.remove()
    return kept[0]


def _loss_from(
    checkpoint: Checkpoint, inputs: dict[str, Tensor], layer: int, hidden: Tensor
) -> NDArray[np.float64]:
    with start_at(checkpoint, layer, hidden):
        return _loss(checkpoint, inputs)


def _loss(checkpoint: Checkpoint, inputs: dict[str, Tensor]) -> NDArray[np.float64]:
    """Mean next-token loss of each row, nats per token, in float64."""
    with torch.inference_mode():
        logits = checkpoint.model(**inputs, use_cache=False).logits[:, :-1]
    targets = inputs["input_ids"][:, 1:].to(logits.device)
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    ).reshape(targets.shape)
    real = inputs["attention_mask"][:, 1:].to(nats.device).double()
    losses: NDArray[np.float64] = ((nats * real).sum(1) / real.sum(1)).cpu().numpy()
    if not np.isfinite(losses).all():
        row = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise NumericalError(
            f"the loss of row {row} is NaN or infinite; load the model in float32."
        )
    return losses
