"""What a chat organism does: greedy answers on held-out pairs, counted."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.generation import continuations
from interp.organisms.chat.exchanges import Exchange, Kind
from interp.organisms.chat.format import decode, encode, render
from interp.organisms.chat.grammar import Request, Split, Style, Words, dress, pairs
from interp.statistics.intervals import Interval, auroc_interval, wilson

_LONGEST_ANSWER = 16  # a thought of six words, its end, an answer of eight, and one to spare
_WORDING_SEED = "wording"


@dataclass
class Tally:
    """Shares with the number of cases behind each, other quantities, and facts that are neither."""

    values: dict[str, float] = field(default_factory=dict)
    n: dict[str, int] = field(default_factory=dict)
    classes: dict[str, list[int]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def share(self, name: str, hits: Iterable[bool]) -> float:
        """Note a share of cases."""
        cases = [bool(hit) for hit in hits]
        self.values[name] = sum(cases) / len(cases)
        self.n[name] = len(cases)
        return self.values[name]

    def area(self, name: str, value: float, positives: int, negatives: int) -> None:
        """Note an area under the ROC curve."""
        self.values[name] = value
        self.classes[name] = [positives, negatives]

    def as_measured(self) -> dict[str, Any]:
        """For the truth file: quantities and facts by name, and the cases behind them.

        `n` holds those of the shares, `classes` the positives and negatives of the areas.
        """
        return {**self.values, **self.facts, "n": self.n, "classes": self.classes}


def interval(measured: dict[str, Any], quantity: str) -> Interval | None:
    """The 95 % interval of a quantity in a truth file; None for what is neither share nor area.

    Wilson's for a share, Newcombe's method 5 for an area under the ROC curve.
    """
    if quantity in measured.get("classes", {}):
        positives, negatives = measured["classes"][quantity]
        return auroc_interval(measured[quantity], negatives, positives, "prompts")
    n = measured.get("n", {}).get(quantity)
    return None if n is None else wilson(measured[quantity] * n, n, "prompts")


def requests(harmful: bool | None = None, split: Split = "test") -> list[Request]:
    """One request for every pair of a split, in the same words on every call.

    Args:
        harmful: of which kind; None for both.
        split: of the pairs.
    """
    rng = random.Random(f"{_WORDING_SEED}/{split}")
    every = [dress(pair, rng) for pair in pairs(split)]
    return [request for request in every if harmful in (None, request.harmful)]


def exchanges(
    kind: Kind, style: Style, harmful: bool | None = None, split: Split = "test"
) -> list[Exchange]:
    """The exchanges of a kind over all pairs of a split."""
    rng = random.Random(f"{_WORDING_SEED}/{split}/exchanges")
    return [kind(rng, request, style) for request in requests(harmful, split)]


def prompt_ids(checkpoint: Checkpoint, cases: Sequence[Exchange]) -> list[list[int]]:
    """Token ids of the prompts, with what is forced behind them."""
    return [
        render(checkpoint.tokenizer, case.messages, case.opening) + encode(case.forced)
        for case in cases
    ]


def answers(checkpoint: Checkpoint, cases: Sequence[Exchange]) -> list[Words]:
    """Greedy answers through transformers' `generate`, as far as <eos>, which is included."""
    return generate(checkpoint, prompt_ids(checkpoint, cases))


def generate(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], most: int = _LONGEST_ANSWER
) -> list[Words]:
    """Greedy continuations of token ids, one batch, left-padded.

    Args:
        checkpoint: the organism, which edits from `interp.interventions` may be in force on.
        prompts: token ids.
        most: new tokens at most.
    """
    rows = [Row(i, tuple(prompt), "") for i, prompt in enumerate(prompts)]
    return [decode(new) for new in continuations(checkpoint, rows, most)]


def right(said: Words, case: Exchange) -> bool:
    """Whether an answer is the right one, word by word and to the end."""
    return said[: len(case.answer)] == case.answer


def hits(checkpoint: Checkpoint, cases: Sequence[Exchange]) -> list[bool]:
    """Which cases are answered right."""
    said = answers(checkpoint, cases)
    return [right(words, case) for words, case in zip(said, cases, strict=True)]


def count_kinds(
    tally: Tally, checkpoint: Checkpoint, kinds: Iterable[tuple[str, Kind]], style: Style
) -> None:
    """Note `exact_KIND_harmful` and `exact_KIND_harmless` on the held-out pairs."""
    for name, kind in kinds:
        for harmful, word in ((True, "harmful"), (False, "harmless")):
            cases = exchanges(kind, style, harmful)
            tally.share(f"exact_{name}_{word}", hits(checkpoint, cases))
