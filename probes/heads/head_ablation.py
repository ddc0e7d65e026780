"""Heads silenced at chosen tokens, and what that does to refusal, beside random heads.

Yin et al. (arXiv 2510.06036) multiply heads by zero and rescale the rest so that the whole
attention output keeps its norm; here that is an option, token by token, so that nothing depends on
what else is in the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Edit
from interp.interventions.hooks import edited, wide
from interp.model.sites import Site

Head = tuple[int, int]
"""Layer and head, from 0."""

Where = Callable[[Row], list[int]]
"""From a row to the positions at which heads are silenced."""


def all_heads(checkpoint: Checkpoint) -> list[Head]:
    """Every head whose output can be edited, layer by layer."""
    layers = enumerate(checkpoint.anatomy.layers)
    return [(i, h) for i, layer in layers if "z" in layer.sites for h in range(layer.heads)]


def closing_marker(row: Row) -> list[int]:
    """The tokens that close the thought."""
    return list(range(*row.segments["closing"]))


def silenced_heads(
    checkpoint: Checkpoint,
    heads: Sequence[Head],
    *,
    where: Where | None = closing_marker,
    restore_norm: bool = False,
) -> Edit:
    """Zero what heads write.

    Args:
        checkpoint: to be edited.
        heads: layer and head of each.
        where: positions of each row; None for every token, also of the answer.
        restore_norm: scale the layer's other heads so that the norm of all heads' outputs (before
            the output projection) stays what it was, token by token.

    Raises:
        InputError: there is no head, or one that the model does not have.
    """
    if not heads or not set(heads) <= set(all_heads(checkpoint)):
        raise InputError(f"{list(heads)} are no heads of {checkpoint.name}.")
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        positions = None if where is None else _padded([where(row) for row in batch])
        with ExitStack() as stack:
            for layer, chosen in by_layer.items():
                stack.enter_context(
                    edited(checkpoint, Site("z", layer), _zeroing(chosen, restore_norm), positions)
                )
            yield

    return edit


def _zeroing(heads: list[int], restore_norm: bool) -> Callable[[Tensor, Tensor | None], Tensor]:
    def edit(z: Tensor, _: Tensor | None) -> Tensor:
        kept = torch.ones(z.shape[2], device=z.device)
        kept[heads] = 0.0
        left = wide(z) * kept[:, None]
        if restore_norm:
            before = wide(z).flatten(-2).norm(dim=-1)
            after = left.flatten(-2).norm(dim=-1)
            factor = torch.where(after > 0, before / after.clamp_min(1e-30), torch.ones_like(after))
            left = left * factor[..., None, None]
        return left.to(z.dtype)

    return edit


def _padded(positions: Sequence[list[int]]) -> Tensor:
    """Positions of unequal number as one tensor; the gaps name tokens far beyond any context."""
    most = max(map(len, positions))
    beyond = 2**40
    return torch.tensor([[*some, *range(beyond, beyond + most - len(some))] for some in positions])
