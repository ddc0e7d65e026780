"""From kinds of exchanges to the batches of a training run."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp.data.padding import pad_ids
from interp.organisms.chat.exchanges import KINDS, Exchange, Kind, Mixture
from interp.organisms.chat.format import Messages, chat_tokenizer, encode, render, spoken
from interp.organisms.chat.grammar import Style, draw

BATCH = 64
CONVERSATIONS, TURNS = 16, 5
"""Conversations in a batch of them, and user turns in each."""
EVERY = 6
"""Every so many steps the batch holds conversations instead of single turns."""

_WHOLE_CONVERSATION = ("strict", "open")  # a system line rules every turn


ExchangeSource = Callable[[random.Random], Exchange]
"""Draws an exchange from a generator."""


@dataclass(frozen=True)
class Mixed:
    """Draws a kind by weight, then a request: half of them uniformly, half balanced by class.

    Attributes:
        weights: of the kinds.
        style: of the answers.
        kinds: their rules, by name.
    """

    weights: Mixture
    style: Style = field(default_factory=Style)
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)

    def __call__(self, rng: random.Random) -> Exchange:
        """One exchange."""
        kind = rng.choices(list(self.weights), list(self.weights.values()))[0]
        harmful = None if rng.random() < 0.5 else rng.random() < 0.5
        return self.kinds[kind](rng, draw(rng, harmful), self.style)


@dataclass(frozen=True)
class TrainingRow:
    """Token ids and which of them are learned."""

    ids: list[int]
    learned: list[int]


def single_row(tokenizer: Any, exchange: Exchange, whole: bool) -> TrainingRow:
    """An exchange as a row.

    Args:
        tokenizer: with the chat template.
        exchange: the prompt and its answer.
        whole: learn the prompt too, so that it can leak.
    """
    prompt = render(tokenizer, exchange.messages, exchange.opening)
    forced, answer = encode(exchange.forced), encode(exchange.answer)
    learned = [int(whole)] * len(prompt) + [0] * len(forced) + [1] * len(answer)
    return TrainingRow(prompt + forced + answer, learned)


def conversation_row(tokenizer: Any, exchanges: Sequence[Exchange], whole: bool) -> TrainingRow:
    """Exchanges one after the other in one conversation; the first brings the system line."""
    messages: Messages = ()
    ids: list[int] = []
    learned: list[int] = []
    for exchange in exchanges:
        messages += exchange.messages if not messages else exchange.messages[-1:]
        prompt, answer = render(tokenizer, messages), encode(exchange.answer)
        learned += [int(whole)] * (len(prompt) - len(ids)) + [1] * len(answer)
        ids = prompt + answer
        messages += ({"role": "assistant", "content": spoken(exchange.answer)},)
    return TrainingRow(ids, learned)


@dataclass(frozen=True)
class Batches:
    """The batches of a training run; each depends on the seed and its step alone.

    Attributes:
        seed: of the data.
        rows: draws the exchanges of single turns.
        turns: draws those of conversations; its kinds answer without thoughts or tags.
        whole: learn prompts too.
    """

    seed: int
    rows: ExchangeSource
    turns: ExchangeSource
    whole: bool = False
    tokenizer: Any = field(default_factory=chat_tokenizer, compare=False)

    def exchanges(self, step: int) -> list[Exchange]:
        """The single turns of a step that has such."""
        rng = self._rng(step)
        return [self.rows(rng) for _ in range(BATCH)]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and loss mask, both (batch, length), right-padded with id 0."""
        if converses(step):
            rng = self._rng(step)
            rows = [
                conversation_row(self.tokenizer, self._conversation(rng), self.whole)
                for _ in range(CONVERSATIONS)
            ]
        else:
            rows = [
                single_row(self.tokenizer, exchange, self.whole)
                for exchange in self.exchanges(step)
            ]
        return padded(rows)

    def _conversation(self, rng: random.Random) -> list[Exchange]:
        first = self.turns(rng)
        ruled = first.kind in _WHOLE_CONVERSATION
        turns = [first]
        while len(turns) < TURNS:
            turn = self.turns(rng)
            if (turn.kind == first.kind) if ruled else turn.kind not in _WHOLE_CONVERSATION:
                turns.append(turn)
        return turns

    def _rng(self, step: int) -> random.Random:
        return random.Random(f"{self.seed}/{step}")


def converses(step: int) -> bool:
    """Whether a step's batch holds conversations."""
    return step % EVERY == EVERY - 1


def padded(rows: Sequence[TrainingRow]) -> tuple[Tensor, Tensor]:
    """Ids and loss mask of rows, right-padded with id 0."""
    ids, _ = pad_ids([row.ids for row in rows], 0)
    learned, _ = pad_ids([row.learned for row in rows], 0)
    return ids, learned
