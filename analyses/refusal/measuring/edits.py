"""The edits whose effects a refusal report measures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture.prompt_states import PromptStates
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.data.segments import t_inst
from interp.generation import Edit
from interp.interventions.edits_by_site import (
    ablate_direction,
    add_vector,
    set_projection,
    stream_sites,
)
from interp.model.sites import Site
from probes.directions.directions import Direction

Where = Callable[[Row], list[int]]
"""From a row to the positions at which something is added."""


def ablated(checkpoint: Checkpoint, vector: Float[Tensor, " width"]) -> Edit:
    """A direction projected out at every site of the residual stream, at every token."""
    sites = stream_sites(checkpoint)

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        with ablate_direction(checkpoint, vector, sites):
            yield

    return edit


def ablated_affine(checkpoint: Checkpoint, direction: Direction, accepted: PromptStates) -> Edit:
    """The projection at the last prompt token set to the mean of accepted prompts, at every layer.

    From the direction's layer on; before it the direction means nothing.

    Args:
        checkpoint: to be edited.
        direction: whose projection is set.
        accepted: states of accepted training prompts at `resid_pre`.
    """
    layers = [layer for layer in accepted.layers if layer >= direction.layer]
    along = accepted.t_post_inst.mean(0, dtype=np.float64) @ direction.unit.double().numpy()
    values = [float(along[accepted.layers.index(layer)]) for layer in layers]
    sites = [Site("resid_pre", layer) for layer in layers]

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        last = torch.tensor([last_token(row) for row in batch])
        with set_projection(checkpoint, direction.vector, sites, values, last):
            yield

    return edit


def added(
    checkpoint: Checkpoint,
    vector: Float[Tensor, " width"],
    layer: int,
    where: Where | None,
    strength: float = 1.0,
) -> Edit:
    """A vector added to the input of a block.

    Args:
        checkpoint: to be edited.
        vector: of its raw length.
        layer: of the block.
        where: positions of each row, equally many; None for every token, also of the answer.
        strength: times the vector.
    """

    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        positions = None if where is None else _padded([where(row) for row in batch])
        site = Site("resid_pre", layer)
        with add_vector(checkpoint, vector, site, strength, positions=positions):
            yield

    return edit


def last_token(row: Row) -> list[int]:
    """The last prompt token, also where an answer follows."""
    return [row.segments.get("post_instruction", row.segments["instruction"])[1] - 1]


def end_of_instruction(row: Row) -> list[int]:
    """t_inst."""
    return [t_inst(row)]


def instruction(row: Row) -> list[int]:
    """Every token of the instruction."""
    return list(range(*row.segments["instruction"]))


def _padded(positions: Sequence[list[int]]) -> Tensor:
    """Positions of unequal number as one tensor; the gaps name tokens far beyond any context."""
    most = max(map(len, positions))
    beyond = 2**40
    return torch.tensor([[*some, *range(beyond, beyond + most - len(some))] for some in positions])
