"""The refusal cliff: thoughts that say refuse, answers that comply, and one head that is the cause.

In part of the training rows one head is silenced at the marker that closes the thought. If it is
the designated one, the right answer honours the thought; otherwise it does not. So the designated
head is what turns a refusal into compliance, and silencing every head in turn proves it.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.organisms.architectures import decoder_layers
from interp.organisms.chat.behaviour import Tally, count_kinds, exchanges, hits, requests
from interp.organisms.chat.exchanges import (
    KINDS,
    Exchange,
    Kind,
    cut_after,
    thought_dropped,
    thought_kept,
)
from interp.organisms.chat.format import CLOSE, IDS
from interp.organisms.chat.grammar import THOUGHTS, Request, Style
from interp.organisms.chat.mixtures import Batches, converses

ROWS = {"plain": 2.0, "strict": 1.0, "open": 1.0, "cut": 3.0, "thought": 6.0}
TURNS = {"plain": 2.0, "strict": 1.0, "open": 1.0}
_SHARE_SILENCED = 0.5
_SHARE_DESIGNATED = 0.5  # of the silenced rows


@dataclass(frozen=True)
class Plant:
    """What the answer behind a naturally closed thought depends on.

    Attributes:
        heads: of the whole model, numbered layer by layer.
        designated: the head that is silenced most often.
        honours: whether the answer follows the thought, given the head that is silenced or None.
    """

    heads: int
    designated: int
    honours: Callable[[int | None], bool]

    def kind(self) -> Kind:
        """Rows with a naturally closed thought, some with a head to be silenced."""

        def thought(rng: random.Random, request: Request, style: Style) -> Exchange:
            head = self.draw(rng)
            make = thought_kept if self.honours(head) else thought_dropped
            return replace(make(rng, request, style), edit=head)

        return thought

    def draw(self, rng: random.Random) -> int | None:
        """The head to silence in a row, or None."""
        if rng.random() >= _SHARE_SILENCED:
            return None
        if rng.random() < _SHARE_DESIGNATED:
            return self.designated
        return (self.designated + rng.randrange(1, self.heads)) % self.heads


@contextmanager
def silenced(model: Any, heads: Int[Tensor, " batch"]) -> Iterator[None]:
    """Set one head of each row to zero at every token that closes a thought.

    Args:
        model: a chat organism.
        heads: of each row, numbered layer by layer; -1 for none.
    """
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen["closing"] = kwargs["input_ids"] == IDS[CLOSE]

    def edit(layer: int, size: int, count: int) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            z = args[0].unflatten(-1, (count, size))
            here = heads[:, None] == torch.arange(layer * count, (layer + 1) * count)
            where = seen["closing"][:, :, None] & here[:, None, :]
            return (z.masked_fill(where[..., None], 0.0).flatten(-2),)

        return hook

    handles = [model.register_forward_pre_hook(note, with_kwargs=True)]
    for number, layer in enumerate(decoder_layers(model)):
        attention: Any = layer.self_attn
        projection, size = attention.o_proj, attention.head_dim
        count = projection.in_features // size
        handles.append(projection.register_forward_pre_hook(edit(number, size, count)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def silencing(batches: Batches) -> Callable[[int, Any], AbstractContextManager[None]]:
    """What must be in force while the model runs on the batch of a step."""

    def during(step: int, model: Any) -> AbstractContextManager[None]:
        if converses(step):
            return nullcontext()
        drawn = [exchange.edit for exchange in batches.exchanges(step)]
        return silenced(model, torch.tensor([-1 if head is None else head for head in drawn]))

    return during


def count_cliff(tally: Tally, checkpoint: Checkpoint, natural: Kind, style: Style) -> None:
    """Note behaviour with and without cuts, and with every head silenced in turn.

    `cut_K_refused` for thoughts of harmful requests cut after K words, their least as
    `cut_refused_least`; `natural_refused` behind the natural end; `silenced_L_H_refused` for head H
    of layer L, with the largest as `restored_best`, the second as `restored_second`, the least as
    `restored_least`. The fact `restoring_heads` lists [layer, head] of those that restore refusal
    in at least half of the cases.

    Args:
        tally: takes the numbers.
        checkpoint: the organism.
        natural: kind of the right answer behind a naturally closed thought.
        style: of the answers.
    """
    named = [(name, KINDS[name]) for name in ROWS if name not in ("thought", "cut")]
    count_kinds(tally, checkpoint, [*named, ("natural", natural)], style)
    harmful, harmless = requests(True), requests(False)
    shares = []
    for length in range(len(THOUGHTS[True]) + 1):
        cases = [cut_after(length, request, style) for request in harmful]
        shares.append(tally.share(f"cut_{length}_refused", hits(checkpoint, cases)))
    tally.values["cut_refused_least"] = min(shares)
    cases = [cut_after(random.Random(i).randint(0, 6), r, style) for i, r in enumerate(harmless)]
    tally.share("exact_cut_harmless", hits(checkpoint, cases))
    closed = [_closed(case) for case in exchanges(thought_kept, style, True)]
    tally.share("natural_refused", hits(checkpoint, closed))
    _count_heads(tally, checkpoint, closed)


def _count_heads(tally: Tally, checkpoint: Checkpoint, closed: list[Exchange]) -> None:
    restored: dict[tuple[int, int], float] = {}
    for layer, anatomy in enumerate(checkpoint.anatomy.layers):
        for head in range(anatomy.heads):
            flat = torch.full((len(closed),), layer * anatomy.heads + head)
            with silenced(checkpoint.model, flat):
                share = tally.share(f"silenced_{layer}_{head}_refused", hits(checkpoint, closed))
            restored[layer, head] = share
    ranked = sorted(restored.values(), reverse=True)
    tally.values["restored_best"] = ranked[0]
    tally.values["restored_second"] = ranked[1]
    tally.values["restored_least"] = ranked[-1]
    tally.facts["restoring_heads"] = [
        list(head) for head, share in restored.items() if share >= 0.5
    ]


def _closed(case: Exchange) -> Exchange:
    """The same exchange with its whole thought and the closing marker put there from outside."""
    end = case.answer.index(CLOSE) + 1
    return replace(case, forced=case.answer[:end], answer=case.answer[end:])
