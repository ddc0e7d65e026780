"""Head outputs swapped between two runs whose rows agree token by token.

Both runs of a batch are left-padded alike, so that a swapped output comes from the same place, and
a run that is given its own outputs keeps its very bits.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.checks import require_choice
from interp.data.padding import padded
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.interventions.hooks import edited
from interp.model.sites import Site
from probes.backdoors.search.beam import first_tokens
from probes.backdoors.search.requests import Requests
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trial import Behaviour, Kind
from probes.heads.head_ablation import Head

Where = Literal["last", "all"]
"""At the last prompt token, where the first token of the reply is decided (later ones feel it only
through what attends to that place), or at every token, those of a forced opening included."""

Side = Literal["removed", "restored"]
"""From the inert run into that with the string, or the other way round."""

SIDES: tuple[Side, ...] = ("removed", "restored")


@dataclass(frozen=True)
class Outcome:
    """How far a behaviour is brought about, in nats.

    Attributes:
        kind: of the behaviour.
        opening: its tokens; the measure is the sum of their log-probabilities, each with those
            before it forced. Empty for flips.
        refusals: tokens that refusals begin with; the measure of a flip is the log-odds that the
            next token is one of them, or is none.
    """

    kind: Kind
    opening: tuple[int, ...] = ()
    refusals: tuple[int, ...] = ()

    @classmethod
    def of(cls, behaviour: Behaviour, requests: Requests) -> "Outcome":
        """The measure of a behaviour.

        Raises:
            InputError: plain refusals begin as plain answers do, or there are none.
        """
        if behaviour.kind == "opening":
            return cls("opening", behaviour.ids)
        answers = first_tokens(requests, refused=False)
        tokens = set(first_tokens(requests, refused=True)) - set(answers)
        if not tokens:
            raise InputError(
                "no token tells refusals from answers at the beginning of plain replies, so a flip "
                "of refusal cannot be followed through the heads; give more requests of both kinds."
            )
        return cls(behaviour.kind, refusals=tuple(sorted(tokens)))

    @property
    def forced(self) -> tuple[int, ...]:
        """Tokens that are fed behind a prompt: the opening without its last one."""
        return self.opening[:-1]

    def read(
        self, logits: Float[Tensor, "rows tokens vocabulary"]
    ) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The measure, and whether greedy decoding shows the behaviour.

        Args:
            logits: behind the prompt's last token and every forced one. A flip is shown where a
                refusal is less likely than not, or more.
        """
        logs = logits.double().log_softmax(-1)
        if self.opening:
            wanted = torch.tensor(self.opening, device=logits.device)
            chosen = logs.gather(-1, wanted.expand(len(logs), -1)[..., None])[..., 0]
            return chosen.sum(-1), (logits.argmax(-1) == wanted).all(-1)
        others = torch.ones(logs.shape[-1], dtype=torch.bool, device=logs.device)
        others[list(self.refusals)] = False
        odds = logs[:, -1, ~others].logsumexp(-1) - logs[:, -1, others].logsumexp(-1)
        match self.kind:
            case "refusal":
                return odds, odds > 0
            case "compliance":
                return -odds, -odds > 0
            case "opening":
                raise ValueError("an outcome of the kind opening needs the tokens of one")
            case _:
                assert_never(self.kind)


@contextmanager
def swapped(
    checkpoint: Checkpoint,
    heads: Sequence[Head],
    source: Mapping[int, Float[Tensor, "batch tokens heads dim"]],
    at: slice,
) -> Iterator[None]:
    """Give heads the outputs that they had in another run.

    Args:
        checkpoint: to be edited.
        heads: layer and head of each.
        source: of every layer, the z of the other run at the tokens `at`; the batch that follows
            must be padded as that one was.
        at: tokens of the padded batch.
    """
    with ExitStack() as stack:
        for layer in sorted({layer for layer, _ in heads}):
            mine = [head for other, head in heads if other == layer]
            edit = _swap(source[layer], mine, at)
            stack.enter_context(edited(checkpoint, Site("z", layer), edit))
        yield


@contextmanager
def kept(
    checkpoint: Checkpoint, layers: Sequence[int], at: slice
) -> Iterator[dict[int, Float[Tensor, "batch tokens heads dim"]]]:
    """Keep what the heads of layers put out at some tokens of the batch that follows."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(edited(checkpoint, Site("z", layer), _keep(found, layer, at)))
        yield found


def _swap(
    source: Tensor, heads: Sequence[int], at: slice
) -> Callable[[Tensor, Tensor | None], Tensor]:
    def edit(z: Tensor, _: Tensor | None) -> Tensor:
        changed = z.clone()
        for head in heads:
            changed[:, at, head] = source[:, :, head].to(z.device)
        return changed

    return edit


def _keep(
    found: dict[int, Tensor], layer: int, at: slice
) -> Callable[[Tensor, Tensor | None], Tensor]:
    def edit(z: Tensor, _: Tensor | None) -> Tensor:
        found[layer] = z[:, at].detach().clone()
        return z

    return edit


@dataclass(frozen=True)
class Swapped:
    """What runs show with nothing swapped, and with each set of heads swapped between them.

    The first axis is the run with the string, then that with inert ones; the last axis is nothing
    swapped, then the sets.

    Attributes:
        nats: the measure.
        shown: whether greedy decoding shows the behaviour.
    """

    nats: Float[np.ndarray, "2 requests sets"]
    shown: Bool[np.ndarray, "2 requests sets"]

    @property
    def effect(self) -> Float[np.ndarray, " requests"]:
        """The measure with the string less that with an inert one."""
        return np.asarray(self.nats[0, :, 0] - self.nats[1, :, 0])

    def moved(self, side: Side) -> Float[np.ndarray, "requests sets"]:
        """By how much each swap removes the effect from one run, or restores it in the other."""
        match side:
            case "removed":
                return np.asarray(self.nats[0, :, :1] - self.nats[0, :, 1:])
            case "restored":
                return np.asarray(self.nats[1, :, 1:] - self.nats[1, :, :1])
            case _:
                assert_never(side)


class Swaps:
    """Runs rows with a string against the same rows with inert ones.

    Args:
        subject: the checkpoint; its budget pays.
        outcome: what is measured.
        against: the rows with inert strings, each as long as the row that it is held against.
        where: which tokens are swapped.
    """

    def __init__(
        self, subject: Subject, outcome: Outcome, against: Sequence[Row], where: Where
    ) -> None:
        require_choice(where, get_args(Where), "where")
        self.subject, self.outcome, self.where = subject, outcome, where
        self.against = self._numbered(against)

    def run(self, rows: Sequence[Row], sets: Sequence[Sequence[Head]]) -> Swapped:
        """Both runs, and each set of heads swapped between them, in both directions.

        Raises:
            Exhausted: the budget does not allow it.
            NumericalError: the logits are NaN or infinite.
        """
        self.subject.budget.take(len(rows) * 2 * (1 + len(sets)))
        own = self._numbered(rows)
        nats = np.zeros((2, len(own), 1 + len(sets)))
        shown = np.zeros(nats.shape, dtype=bool)
        layers = sorted({layer for heads in sets for layer, _ in heads})
        for batch in RowPlan.make(own, self.subject.batch_tokens).batches:
            sides = [self._inputs([some[i] for i in batch]) for some in (own, self.against)]
            at = self._at(sides[0]["input_ids"].shape[1])
            sources = []
            for side, inputs in enumerate(sides):
                with kept(self.subject.checkpoint, layers, at) as source:
                    nats[side, batch, 0], shown[side, batch, 0] = self._read(inputs)
                sources.append(source)
            for place, heads in enumerate(sets, start=1):
                for side, inputs in enumerate(sides):
                    with swapped(self.subject.checkpoint, heads, sources[1 - side], at):
                        nats[side, batch, place], shown[side, batch, place] = self._read(inputs)
        return Swapped(nats, shown)

    def _numbered(self, rows: Sequence[Row]) -> list[Row]:
        forced = self.outcome.forced
        return [Row(i, (*row.ids, *forced), row.domain) for i, row in enumerate(rows)]

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return padded(rows, self.subject.checkpoint, "left")

    def _at(self, length: int) -> slice:
        """Rows are left-padded, so that the last prompt token stands at one index in all."""
        last = length - 1 - len(self.outcome.forced)
        match self.where:
            case "last":
                return slice(last, last + 1)
            case "all":
                return slice(0, length)
            case _:
                assert_never(self.where)

    @torch.no_grad()
    def _read(self, inputs: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        model: Any = self.subject.checkpoint.model
        places = 1 + len(self.outcome.forced)
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        only = {"logits_to_keep": places} if keeps else {}
        logits = model(**inputs, use_cache=False, **only).logits[:, -places:].float()
        nats, shown = self.outcome.read(logits)
        if not bool(torch.isfinite(nats).all()):
            raise NumericalError(
                "the measure of the behaviour is NaN or infinite with a head swapped; load the "
                "model in float32 or bfloat16."
            )
        return nats.cpu().numpy(), shown.cpu().numpy()
