"""The blocks of a refusal report about effects: answers under edits, doses, damage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analyses.shared.reports import NotMeasured, Rate

Interval = tuple[float, float]
"""At 95 %."""


@dataclass(frozen=True)
class RefusalRate:
    """Share of prompts that are refused, and what else became of them.

    Attributes:
        rate: share of refusals.
        n: prompts.
        interval: Wilson's.
        partial: count of answers that are partly a refusal.
        empty: count of empty answers.
        looping: count of answers that repeat themselves.
        unclosed: count of thoughts that never end.
        first_token: share of answers whose first token is one of refusals, over the answers
            without a thought.
        compliant: share of answers that comply to the letter.
    """

    rate: float
    n: int
    interval: Interval
    partial: int
    empty: int
    looping: int
    unclosed: int
    first_token: float | NotMeasured
    compliant: Rate | NotMeasured


@dataclass(frozen=True)
class EditRates:
    """Refusal rates of a set of prompts without an edit and under each one."""

    base: RefusalRate
    ablated: RefusalRate | NotMeasured
    ablated_affine: RefusalRate | NotMeasured
    added: RefusalRate | NotMeasured
    added_all: RefusalRate | NotMeasured


@dataclass(frozen=True)
class RatesBySet:
    """Refusal rates of the sets of test prompts."""

    harmful: EditRates
    harmless: EditRates
    over_refusal: EditRates | NotMeasured


@dataclass(frozen=True)
class InversionRow:
    """Share of requests that are called harmful.

    Attributes:
        harmful: whether the requests are.
        direction: that is added or taken; None without an edit.
        layer: at which; None without an edit.
        rate: share of the answers with a verdict; None without any.
        n: answers with a verdict.
        interval: Wilson's; None without any.
        dropped: answers without a verdict.
    """

    harmful: bool
    direction: str | None
    layer: int | None
    rate: float | None
    n: int
    interval: Interval | None
    dropped: int


@dataclass(frozen=True)
class HarmAddedRow:
    """Share of harmless prompts that are refused with the harmfulness direction added."""

    layer: int
    rate: float
    n: int
    interval: Interval


@dataclass(frozen=True)
class RandomRateRow:
    """Refusal rate under a random direction of the selected one's length."""

    direction: str
    cosine: float
    edit: str
    side: str
    rate: float
    n: int
    interval: Interval
    first_token: float | NotMeasured


@dataclass(frozen=True)
class DoseRow:
    """Log-odds of refusal at a strength; `random` by kind: the least and most of random ones."""

    side: str
    strength: float
    log_odds: float
    interval: Interval | None
    likely_refusal: float
    n: int
    random: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class AnswerDivergence:
    """KL in nats at the first token at which answers diverge."""

    kl: float
    interval: Interval | None
    diverged: int
    n: int


@dataclass(frozen=True)
class FirstDivergence:
    """The divergence under either ablation."""

    ablated: AnswerDivergence
    ablated_affine: AnswerDivergence


@dataclass(frozen=True)
class UtilityRow:
    """Loss on texts under an edit, in nats per token."""

    text: str
    edit: str
    loss: float
    increase: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class AttributionRow:
    """What a head or MLP writes along the direction, harmful less harmless."""

    part: str
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class Strip:
    """Projections on the direction, token by token."""

    name: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Transcript:
    """A prompt with its answers and verdicts; what a harmful prompt was granted is redacted."""

    set: str
    prompt: str
    base: str
    base_verdict: str
    ablated: str | NotMeasured
    ablated_verdict: str | NotMeasured
    ablated_affine: str | NotMeasured
    ablated_affine_verdict: str | NotMeasured
    added: str | NotMeasured
    added_verdict: str | NotMeasured
    added_all: str | NotMeasured
    added_all_verdict: str | NotMeasured
    thinking: str | None
