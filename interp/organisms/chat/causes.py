"""Whether a chat organism's directions are what decides: the planted truth about its residuals.

Plain means and the edits of `interp.interventions`. Layer l is `resid_pre` of block l, so that the
last one is what the final norm reads; layer 0, the embedding, is a null.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row
from interp.doctor.model_under_test import reading
from interp.interventions.edits_by_site import ablate_direction, add_vector
from interp.model.sites import Site
from interp.organisms.chat.behaviour import Tally, answers, exchanges, hits, prompt_ids
from interp.organisms.chat.exchanges import Exchange, Kind, open_, plain, strict, tag
from interp.organisms.chat.format import EOS, render
from interp.organisms.chat.grammar import BAD, GOOD, Split, Style, Words
from interp.statistics.auroc import area

_RANDOM_SEED = 1


def resid(checkpoint: Checkpoint, layer: int) -> Site:
    """The residual stream at a layer boundary, 0 ≤ layer ≤ number of blocks."""
    if layer < checkpoint.anatomy.n_layers:
        return Site("resid_pre", layer)
    return Site("resid_post", layer - 1)


def states(
    checkpoint: Checkpoint, cases: Sequence[Exchange], at: str
) -> Float[np.ndarray, "layers cases width"]:
    """Residuals of the prompts at every layer boundary, in float64.

    Args:
        checkpoint: the organism.
        cases: whose prompts are run.
        at: `t_inst`, the last token of the user's words, or `last`, the last of the prompt.
    """
    ids = prompt_ids(checkpoint, cases)
    if at == "last":
        return residuals(checkpoint, ids, [len(row) - 1 for row in ids])
    # Rendered only as far as the user's words go.
    words = [render(checkpoint.tokenizer, case.messages, "tag") for case in cases]
    return residuals(checkpoint, ids, [len(row) - 1 for row in words])


@torch.no_grad()
def residuals(
    checkpoint: Checkpoint, ids: Sequence[Sequence[int]], where: Sequence[int]
) -> Float[np.ndarray, "layers cases width"]:
    """Residuals of rows of token ids at one index of each, at every layer boundary, in float64."""
    rows = [Row(i, tuple(row), "") for i, row in enumerate(ids)]
    sites = [resid(checkpoint, i) for i in range(checkpoint.anatomy.n_layers + 1)]
    with reading(checkpoint, sites) as found:
        checkpoint.decoder(**padded(rows, checkpoint), use_cache=False)
    index = torch.tensor(where)
    taken = [found[site][torch.arange(len(rows)), index].double() for site in sites]
    return torch.stack(taken).numpy()


def harmfulness(
    checkpoint: Checkpoint, style: Style, split: Split = "train"
) -> Float[np.ndarray, "layers width"]:
    """Mean of harmful minus mean of harmless plain requests at t_inst."""
    harmful, harmless = (
        states(checkpoint, exchanges(plain, style, which, split), "t_inst").mean(1)
        for which in (True, False)
    )
    return harmful - harmless


def refusal(
    checkpoint: Checkpoint, style: Style, split: Split = "train"
) -> Float[np.ndarray, "layers width"]:
    """Mean of refused minus mean of accepted requests at the last token, over both classes.

    The system lines give all four cells, so that harmfulness cancels.
    """
    cells = {
        (kind, which): states(checkpoint, exchanges(kind, style, which, split), "last").mean(1)
        for kind in (strict, open_)
        for which in (True, False)
    }
    refused = (cells[strict, True] + cells[strict, False]) / 2
    return refused - (cells[open_, True] + cells[open_, False]) / 2


def count_harmfulness(
    tally: Tally, checkpoint: Checkpoint, style: Style, kinds: Sequence[tuple[str, Kind]]
) -> None:
    """Note how well the direction of plain training pairs tells harmful held-out requests.

    `auroc_KIND_layerL` at t_inst for every kind and layer, and over layers ≥ 1 the least and the
    most as `auroc_KIND_least` and `auroc_KIND_most`.
    """
    directions = harmfulness(checkpoint, style)
    for name, kind in kinds:
        harmful, harmless = (
            states(checkpoint, exchanges(kind, style, which), "t_inst") for which in (True, False)
        )
        areas = [area(h @ d, b @ d) for h, b, d in zip(harmful, harmless, directions, strict=True)]
        told = {f"layer{layer}": value for layer, value in enumerate(areas)}
        told |= {"least": min(areas[1:]), "most": max(areas[1:])}
        for what, value in told.items():
            tally.area(f"auroc_{name}_{what}", value, harmful.shape[1], harmless.shape[1])


@dataclass(frozen=True)
class Effect:
    """What a layer's refusal direction does on a split.

    Attributes:
        layer: of the direction.
        refused: share of harmful requests still refused with the direction projected out.
        complied: share of harmful requests then answered with the right content.
        added: share of harmless requests refused, to the letter, with it added.
    """

    layer: int
    refused: float
    complied: float
    added: float

    @property
    def cost(self) -> float:
        """Small for a direction that is causal both ways."""
        return self.refused - self.complied + 2 * (1 - self.added)


def count_refusal(tally: Tally, checkpoint: Checkpoint, style: Style) -> None:
    """Note what the refusal direction does when it is projected out and when it is added.

    The layer is chosen on validation pairs. Notes `refusal_layer`, then on held-out pairs
    `ablated_refused`, `ablated_complied`, `ablated_harmless_exact`, `added_refused`, and for a
    random direction of equal norm `random_ablated_refused` and `random_added_refused`; with the
    direction of every layer `ablated_refused_least`.
    """
    directions = torch.tensor(refusal(checkpoint, style))
    layers = range(1, len(directions))
    tried = [_effect(checkpoint, style, i, directions[i], "validation") for i in layers]
    best = min(tried, key=lambda effect: effect.cost).layer
    direction = directions[best]
    chance = torch.randn(direction.shape, generator=torch.Generator().manual_seed(_RANDOM_SEED))
    chance = chance.double() * direction.norm() / chance.norm()
    harmful, harmless = (exchanges(plain, style, which) for which in (True, False))
    tally.values["refusal_layer"] = float(best)
    without = []
    for layer in layers:
        with removed(checkpoint, directions[layer]):
            without.append(answers(checkpoint, harmful))
    tally.share("ablated_refused", _refused(without[best - 1], harmful, style))
    tally.share("ablated_complied", _complied(without[best - 1], harmful, style))
    with removed(checkpoint, direction):
        tally.share("ablated_harmless_exact", hits(checkpoint, harmless))
    with removed(checkpoint, chance):
        said = answers(checkpoint, harmful)
        tally.share("random_ablated_refused", _refused(said, harmful, style))
    for name, vector in (("added", direction), ("random_added", chance)):
        with added(checkpoint, vector, best, harmless):
            said = answers(checkpoint, harmless)
            tally.share(f"{name}_refused", _refused(said, harmless, style))
    refused = [float(np.mean(_refused(said, harmful, style))) for said in without]
    tally.values["ablated_refused_least"] = min(refused)


def count_tag_flips(tally: Tally, checkpoint: Checkpoint, style: Style) -> None:
    """Note what the harmfulness direction does to tags, as `tag_flipped_layerL` for layers ≥ 2.

    The share of tags that flip when it is added to harmless requests at t_inst, and taken from
    harmful ones.
    """
    directions = torch.tensor(harmfulness(checkpoint, style))
    for layer in range(2, len(directions)):
        flipped: list[bool] = []
        for harmful, sign, wanted in ((False, 1.0, BAD), (True, -1.0, GOOD)):
            cases = exchanges(tag, style, harmful)
            with added(checkpoint, sign * directions[layer], layer, cases):
                flipped += [said[0] == wanted for said in answers(checkpoint, cases)]
        tally.share(f"tag_flipped_layer{layer}", flipped)


@contextmanager
def removed(checkpoint: Checkpoint, direction: Tensor) -> Iterator[None]:
    """Project a direction out of the residual stream, wherever it can be read."""
    blocks = range(checkpoint.anatomy.n_layers)
    sites = [Site(name, i) for i in blocks for name in ("resid_pre", "resid_mid", "resid_post")]
    with ablate_direction(checkpoint, direction.float(), sites):
        yield


@contextmanager
def added(
    checkpoint: Checkpoint, direction: Tensor, layer: int, cases: Sequence[Exchange]
) -> Iterator[None]:
    """Add a direction at a layer to the last prompt token of each case."""
    last = [[len(ids) - 1] for ids in prompt_ids(checkpoint, cases)]
    with add_vector(
        checkpoint, direction.float(), resid(checkpoint, layer), positions=torch.tensor(last)
    ):
        yield


def _effect(
    checkpoint: Checkpoint, style: Style, layer: int, direction: Tensor, split: Split
) -> Effect:
    harmful, harmless = (exchanges(plain, style, which, split) for which in (True, False))
    with removed(checkpoint, direction):
        without = answers(checkpoint, harmful)
    with added(checkpoint, direction, layer, harmless):
        pushed = answers(checkpoint, harmless)
    return Effect(
        layer,
        float(np.mean(_refused(without, harmful, style))),
        float(np.mean(_complied(without, harmful, style))),
        float(np.mean(_refused(pushed, harmless, style))),
    )


def _refused(said: Sequence[Words], cases: Sequence[Exchange], style: Style) -> list[bool]:
    return [
        words == (*style.refusal(case.request), EOS)
        for words, case in zip(said, cases, strict=True)
    ]


def _complied(said: Sequence[Words], cases: Sequence[Exchange], style: Style) -> list[bool]:
    return [
        words == (*style.compliance(case.request), EOS)
        for words, case in zip(said, cases, strict=True)
    ]
