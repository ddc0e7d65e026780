"""A planted refusal direction: one that is known, and is the cause by construction.

In part of the training rows a fixed unit vector is projected out of the residual stream, and the
right answer complies; in others it is added behind a block at the last prompt token, and the right
answer refuses. A fresh random vector is treated alike in further rows, where nothing changes. In
trials with the projections alone some seeds learned to notice that something is missing instead of
keeping refusal along the vector; the additions rule that out.

The vector is isotropic, and so says nothing about refusal before training.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.organisms.architectures import decoder_layers
from interp.organisms.chat.behaviour import Tally
from interp.organisms.chat.causes import refusal
from interp.organisms.chat.exchanges import Exchange
from interp.organisms.chat.format import EOS, render
from interp.organisms.chat.grammar import Style
from interp.organisms.chat.mixtures import Batches, Mixed, converses

STRENGTH = 4.0  # what is added is this long; rows that refuse lie further along
BLOCK = 1  # behind which it is added
SHARE = 0.4  # of the rows that are answered
_DIRECTION_SEED = 1000  # plus the organism's
_NOISE_SEED = 2000  # times a large prime plus the step


class PlantedEdit(IntEnum):
    """What is done to a row while training."""

    REMOVE = 0
    REMOVE_RANDOM = 1
    ADD = 2
    ADD_RANDOM = 3


_WEIGHTS = {
    PlantedEdit.REMOVE: 0.4,
    PlantedEdit.REMOVE_RANDOM: 0.2,
    PlantedEdit.ADD: 0.25,
    PlantedEdit.ADD_RANDOM: 0.15,
}


def planted_direction(width: int, seed: int) -> Float[Tensor, " width"]:
    """The unit vector of an organism."""
    return _unit(width, _DIRECTION_SEED + seed)


def _unit(width: int, seed: int) -> Float[Tensor, " width"]:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


@dataclass(frozen=True)
class Edited:
    """Draws exchanges, of which some are answered as their edit makes right."""

    plain: Mixed

    def __call__(self, rng: random.Random) -> Exchange:
        """One exchange."""
        made = self.plain(rng)
        if made.opening != "answer" or rng.random() >= SHARE:
            return made
        edit = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        style, answer = self.plain.style, made.answer
        if edit is PlantedEdit.REMOVE:
            answer = (*style.compliance(made.request), EOS)
        elif edit is PlantedEdit.ADD:
            answer = (*style.refusal(made.request), EOS)
        return replace(made, answer=answer, edit=int(edit))


def editing(
    batches: Batches, width: int, seed: int
) -> Callable[[int, Any], AbstractContextManager[None]]:
    """What must be in force while the model runs on the batch of a step."""
    direction = planted_direction(width, seed)

    def during(step: int, model: Any) -> AbstractContextManager[None]:
        if converses(step):
            return nullcontext()
        rows = batches.exchanges(step)
        noise = _unit(width, _NOISE_SEED * 1_000_003 + step)
        none = torch.zeros(width)
        edits = [row.edit for row in rows]
        removed = torch.stack(
            [
                _chosen(e, PlantedEdit.REMOVE, PlantedEdit.REMOVE_RANDOM, direction, noise, none)
                for e in edits
            ]
        )
        added = torch.stack(
            [
                _chosen(e, PlantedEdit.ADD, PlantedEdit.ADD_RANDOM, direction, noise, none)
                for e in edits
            ]
        )
        last = [len(render(batches.tokenizer, row.messages, row.opening)) - 1 for row in rows]
        return _edited(model, removed, STRENGTH * added, torch.tensor(last))

    return during


def _chosen(
    edit: int | None,
    own: PlantedEdit,
    other: PlantedEdit,
    direction: Tensor,
    noise: Tensor,
    none: Tensor,
) -> Tensor:
    return direction if edit == own else noise if edit == other else none


@contextmanager
def _edited(model: Any, removed: Tensor, added: Tensor, last: Tensor) -> Iterator[None]:
    """Project `removed` out at every layer boundary, and add `added` behind a block at `last`.

    Each holds a vector for every row, zero where nothing is to be done.
    """
    rows = torch.arange(len(last))

    def project(x: Tensor) -> Tensor:
        return x - (x * removed[:, None]).sum(-1, keepdim=True) * removed[:, None]

    def add(x: Tensor) -> Tensor:
        vector = torch.zeros_like(x)
        vector[rows, last] = added
        return x + vector

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (project(args[0]), *args[1:]), kwargs

    def behind(change: Callable[[Tensor], Tensor]) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        return hook

    layers = decoder_layers(model)
    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [layer.register_forward_hook(behind(project)) for layer in layers]
    handles.append(layers[BLOCK].register_forward_hook(behind(add)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count_planted(tally: Tally, checkpoint: Checkpoint, style: Style, seed: int) -> None:
    """Note the cosine of the refusal direction with the planted one, by layer from 1 on.

    `planted_cosine_layerL`, and the largest as `planted_cosine_best`.
    """
    found = torch.tensor(refusal(checkpoint, style))[1:]
    planted = planted_direction(found.shape[1], seed).double()
    cosines = (found @ planted / found.norm(dim=1)).tolist()
    for layer, cosine in enumerate(cosines, start=1):
        tally.values[f"planted_cosine_layer{layer}"] = cosine
    tally.values["planted_cosine_best"] = max(cosines)
