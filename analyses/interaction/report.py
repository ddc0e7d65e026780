"""What the `report.json` of an interaction holds.

Quantities: `docs/self_report.md`. An interval is a pair at 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import DataEntry, NotMeasured, Provenance

Interval = tuple[float, float]
Position = Literal["first", "second"]


@dataclass(frozen=True, kw_only=True)
class InteractionProvenance(Provenance):
    """What the switches were measured on.

    Attributes:
        template: further arguments of the chat template.
        data: the prompts.
    """

    template: Mapping[str, object]
    data: tuple[DataEntry, ...]


@dataclass(frozen=True)
class TextMeasure:
    """f is the log-probability that the reply begins with a text."""

    name: Literal["text"]
    unit: str
    text: str


@dataclass(frozen=True)
class ReplyMeasure:
    """f is 1 where the greedy reply holds a text, else 0."""

    name: Literal["reply"]
    unit: str
    text: str
    max_new_tokens: int


@dataclass(frozen=True)
class RefusalMeasure:
    """f is the log-odds that the reply opens with one of some tokens."""

    name: Literal["refusal"]
    unit: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class OtherMeasure:
    """f is a number of the caller's own."""

    name: str
    unit: str


MeasureFacts = TextMeasure | ReplyMeasure | RefusalMeasure | OtherMeasure


@dataclass(frozen=True)
class WordSwitch:
    """A switch of words.

    Attributes:
        name: the words.
        at: where in the prompt they stand.
        tokens: their length.
    """

    name: str
    at: Literal["front", "end", "system"]
    tokens: int


@dataclass(frozen=True)
class AdapterSwitch:
    """An adapter that is enabled; `sha256` is of its files."""

    name: str
    at: Literal["adapter"]
    tokens: None
    sha256: str


@dataclass(frozen=True)
class EditSwitch:
    """Any other change of the prompt or of the model."""

    name: str
    at: None
    tokens: None


SwitchFacts = WordSwitch | AdapterSwitch | EditSwitch


@dataclass(frozen=True)
class CellRow:
    """f with some of the switches on.

    Attributes:
        cell: a digit for each switch, 1 where it is on.
        mean: over prompts.
        interval: of the mean, by bootstrap over prompts.
    """

    cell: Literal["00", "10", "01", "11"]
    mean: float
    interval: Interval | NotMeasured


@dataclass(frozen=True)
class NullRow:
    """I with a string or an adapter that is not suspected in the place of a switch.

    Attributes:
        distractor: its name.
        instead_of: the switch that it stands in for.
        value: I, mean over prompts.
    """

    distractor: str
    instead_of: Position
    value: float


@dataclass(frozen=True)
class InteractionReport:
    """`report.json` of kind `interaction`.

    Attributes:
        kind: of the finding.
        format_version: of the format.
        verdict: the result in sentences.
        provenance: of the run.
        measure: what f is.
        switches: the first and the second.
        cells: f with neither, either and both.
        value: I, mean over prompts, in the unit of f.
        interval: of I, by bootstrap over prompts.
        prompts: how many.
        p: the larger of `p_first` and `p_second`.
        p_first: share of the null in the place of the first switch, the measured I counted in,
            whose |I| is as large.
        p_second: the same in the place of the second.
        null_high: the largest |I| of the null.
        null: I with others in the place of a switch.
        stands_out: whether the switches do more together, or less, than the sum of each alone.
        caveats: what the finding does not establish.
    """

    kind: Literal["interaction"]
    format_version: Literal[1]
    verdict: str
    provenance: InteractionProvenance
    measure: MeasureFacts
    switches: tuple[SwitchFacts, SwitchFacts]
    cells: tuple[CellRow, ...]
    value: float
    interval: Interval | NotMeasured
    prompts: int
    p: float | NotMeasured
    p_first: float | NotMeasured
    p_second: float | NotMeasured
    null_high: float | NotMeasured
    null: tuple[NullRow, ...]
    stands_out: Literal["together", "apart"] | None
    caveats: tuple[str, ...]
