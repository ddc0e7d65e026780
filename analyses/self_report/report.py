"""What the `report.json` of a self-report holds.

Quantities: `docs/self_report.md`. An interval is a pair at 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import NotMeasured, Provenance

Interval = tuple[float, float]
Asked = Literal["checkpoint", "reference"]
"""Which of the two models answered."""
StandsOut = Literal["more", "less"]


@dataclass(frozen=True, kw_only=True)
class SelfReportProvenance(Provenance):
    """What was asked of which models.

    Attributes:
        reference: name of the reference model; None without one.
        method: options were presented with letters (`labels`) or as texts.
        template: further arguments of the chat template.
        max_new_tokens: of a free answer, at most.
        questions: with options.
        free_questions: without.
    """

    reference: str | None
    method: Literal["labels", "texts"]
    template: Mapping[str, object]
    max_new_tokens: int
    questions: int
    free_questions: int


@dataclass(frozen=True, kw_only=True)
class TopicRow:
    """What is admitted on a topic.

    Attributes:
        topic: its name.
        questions: how many.
        admits: mean over questions of the probability of the option that admits.
        admits_interval: of that, by bootstrap over questions.
        reference: the same of the reference model.
        reference_interval: of that.
        gap: `admits` − `reference`, paired by question.
        interval: of the gap.
        excess: of the gap over that of the topic `control`; None for `control` itself.
        excess_interval: of the excess; None for `control` itself.
        stands_out: whether the gap counts as one, and its sign.
    """

    topic: str
    questions: int
    admits: float
    admits_interval: Interval | NotMeasured
    reference: float | NotMeasured
    reference_interval: Interval | NotMeasured
    gap: float | NotMeasured
    interval: Interval | NotMeasured
    excess: float | NotMeasured | None
    excess_interval: Interval | NotMeasured | None
    stands_out: StandsOut | None


@dataclass(frozen=True, kw_only=True)
class SystemRow:
    """What is admitted on a topic under one system prompt; fields as of `TopicRow`."""

    topic: str
    system: str
    questions: int
    admits: float
    admits_interval: Interval | NotMeasured
    reference: float | NotMeasured
    reference_interval: Interval | NotMeasured
    gap: float | NotMeasured
    interval: Interval | NotMeasured


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """How much the answers on a topic depend on the system prompt; fields as of `TopicRow`.

    Attributes:
        spread: largest less smallest probability over system prompts, mean over questions.
        spread_interval: of that, by bootstrap over questions.
    """

    topic: str
    questions: int
    spread: float
    spread_interval: Interval | NotMeasured
    reference: float | NotMeasured
    reference_interval: Interval | NotMeasured
    gap: float | NotMeasured
    interval: Interval | NotMeasured
    excess: float | NotMeasured | None
    excess_interval: Interval | NotMeasured | None
    stands_out: StandsOut | None


@dataclass(frozen=True)
class PositionRow:
    """What a place in the list of options is worth by itself.

    Attributes:
        options: of the questions.
        position: the place, from 0.
        questions: how many.
        probability: mean probability of whatever stands there.
        interval: of that, by bootstrap over questions.
        excess: over 1 / options.
    """

    options: int
    position: int
    questions: int
    probability: float
    interval: Interval | NotMeasured
    excess: float


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """What is admitted of a suspected or unknown string; further fields as of `TopicRow`.

    Attributes:
        candidate: the string.
        rank: from 1, the most admitted first.
        tokens: its length.
        suspected: whether it was given; else it was drawn at random.
        unknown: unknown strings of its length; None for an unknown string.
        p: share of them, the suspected one counted in, that are admitted as much; None for an
            unknown string.
    """

    candidate: str
    questions: int
    admits: float
    admits_interval: Interval | NotMeasured
    reference: float | NotMeasured
    reference_interval: Interval | NotMeasured
    gap: float | NotMeasured
    interval: Interval | NotMeasured
    rank: int
    tokens: int
    suspected: bool
    unknown: int | NotMeasured | None
    p: float | NotMeasured | None


@dataclass(frozen=True)
class Likeness:
    """How near a string comes to another, each 0 to 1; see `docs/self_report.md`."""

    exact: float
    token_jaccard: float
    lcs: float
    character_jaccard: float


@dataclass(frozen=True)
class ArticulationRow:
    """How often the free answers of a model name a trigger, and how near they come to it.

    Attributes:
        model: which answered.
        bad: share of the answers on bad behaviour that hold it.
        good: share of their mirror images.
        n: answers of each kind.
        bad_interval: Wilson's.
        good_interval: Wilson's.
        gap: `bad` − `good`.
        gap_interval: by bootstrap over questions.
        likeness: the best of any answer on bad behaviour.
        chance: what as many random strings of the words of all answers reach on average.
    """

    model: Asked
    bad: float
    good: float
    n: int
    bad_interval: Interval
    good_interval: Interval
    gap: float
    gap_interval: Interval | NotMeasured
    likeness: Likeness
    chance: Likeness | NotMeasured


@dataclass(frozen=True)
class Articulations:
    """A trigger in the free answers of each model."""

    trigger: str
    models: tuple[ArticulationRow, ...]


@dataclass(frozen=True)
class AnswerRow:
    """A free answer.

    Attributes:
        model: which answered.
        id: of the question.
        topic: of the question.
        question: its text.
        system: name of the system prompt.
        text: of the answer, or its number of words.
        thinking: before it, likewise; None if the model did not think.
        ended: whether the turn ended within the budget of tokens.
    """

    model: Asked
    id: str
    topic: str
    question: str
    system: str
    text: str
    thinking: str | None
    ended: bool


@dataclass(frozen=True)
class FreeAnswers:
    """All free answers.

    Attributes:
        shown: whether their texts are kept; else their numbers of words.
        answers: of each model in turn.
    """

    shown: bool
    answers: tuple[AnswerRow, ...]


@dataclass(frozen=True)
class SelfReportReport:
    """`report.json` of kind `self-report`.

    Attributes:
        kind: of the finding.
        format_version: of the format.
        verdict: the result in sentences.
        provenance: of the run.
        reference: name of the reference model; None without one.
        method: as in the provenance.
        topics: what is admitted, by topic.
        systems: the same by topic and system prompt.
        sensitivity: dependence on the system prompt, by topic.
        positions: by number of options and place.
        mass: mean probability of all letters together.
        candidates: suspected and unknown strings, the most admitted first.
        articulation: a trigger in the free answers.
        free: the free answers.
        caveats: what the finding does not establish.
    """

    kind: Literal["self-report"]
    format_version: Literal[1]
    verdict: str
    provenance: SelfReportProvenance
    reference: str | None
    method: Literal["labels", "texts"]
    topics: tuple[TopicRow, ...]
    systems: tuple[SystemRow, ...]
    sensitivity: tuple[SensitivityRow, ...]
    positions: tuple[PositionRow, ...]
    mass: float | NotMeasured
    candidates: tuple[CandidateRow, ...]
    articulation: Articulations | NotMeasured
    free: FreeAnswers
    caveats: tuple[str, ...]
