"""What `report.json` of a cliff finding holds; see `docs/cliff.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import DataEntry, NotMeasured, Provenance
from probes.cliff.rows import ForcedStop, NaturalStop, PairInteraction, TrajectoryPoint


@dataclass(frozen=True, kw_only=True)
class CliffProvenance(Provenance):
    """Of a cliff report.

    Attributes:
        scorer: name of the scorer of refusals.
        data: the requests, by part.
    """

    scorer: str
    data: tuple[DataEntry, ...]


@dataclass(frozen=True)
class Fall:
    """The fall of the probe; the quantities are defined in `probes.cliff.trajectory.Cliff`.

    Attributes:
        token_index: of the drop; None where nothing drops.
        from_end: the same from the end, likewise.
        n: harmful and harmless requests.
    """

    plateau: float
    final: float
    depth: float
    token_index: int | None
    interval: tuple[float, float]
    from_end: int | None
    plateau_interval: tuple[float, float]
    final_interval: tuple[float, float]
    n: tuple[int, int]


@dataclass(frozen=True)
class HeadRow:
    """A `HeadEffect`, which says what was left out."""

    layer: int
    head: int
    contribution: float
    rank: int
    ablated_refusal: float | NotMeasured
    interval: tuple[float, float] | NotMeasured
    null_high: float | NotMeasured
    null_heads: int
    suppresses: bool


@dataclass(frozen=True)
class HeadName:
    """A head."""

    layer: int
    head: int


@dataclass(frozen=True)
class Rates:
    """Refusal behind natural thoughts, by label of the request."""

    harmful: NaturalStop
    harmless: NaturalStop
    alarming: NaturalStop


@dataclass(frozen=True)
class AblationRow:
    """An `AblationCondition`, which says what was left out."""

    condition: str
    heads: str
    norm_restored: bool
    refusal: float | None
    refusal_low: float | None
    refusal_high: float | None
    refusal_n: int
    over_refusal: float | NotMeasured
    over_refusal_low: float | NotMeasured
    over_refusal_high: float | NotMeasured
    over_refusal_n: int | NotMeasured
    kl: float | NotMeasured
    compliant: float | NotMeasured


@dataclass(frozen=True)
class ProbeQuality:
    """How well the answer probe reads refusal on test requests.

    Attributes:
        cells: examples of the answer probe by cell.
        cells_with_thoughts: those of the token probe.
        missing: cells without an example.
        auroc: of refused against accepted requests.
        interval: of that, at 95 %.
        n: refused and accepted.
    """

    cells: Mapping[str, int]
    cells_with_thoughts: Mapping[str, int]
    missing: tuple[str, ...]
    auroc: float | NotMeasured
    interval: tuple[float, float] | NotMeasured
    n: tuple[int, int] | NotMeasured


@dataclass(frozen=True)
class SelectorRow:
    """What one selector chooses as training examples.

    Attributes:
        selector: its name.
        percent: of the harmful thoughts.
        n: chosen.
        complied: share of the chosen that the model complied with.
        mean_depth: of the cliff.
    """

    selector: str
    percent: float
    n: int
    complied: float
    mean_depth: float


@dataclass(frozen=True)
class CliffSettingsBlock:
    """How the cliff was looked for."""

    closing: str
    stop_text: str
    thinking_budget: int
    max_new_tokens: int
    exhaustive: bool
    named_heads: tuple[HeadName, ...]


@dataclass(frozen=True)
class CliffReport:
    """The report; its fields are those of `report.json`."""

    kind: Literal["cliff"]
    format_version: Literal[1]
    verdict: str
    provenance: CliffProvenance
    forced_stop: tuple[ForcedStop, ...]
    natural: NaturalStop
    trajectory: tuple[TrajectoryPoint, ...]
    cliff: Fall
    heads: tuple[HeadRow, ...]
    suppression_heads: tuple[HeadName, ...]
    rates: Rates
    ablations: tuple[AblationRow, ...]
    pairs: tuple[PairInteraction, ...]
    probe: ProbeQuality
    selectors: tuple[SelectorRow, ...]
    causality_leak: float
    settings: CliffSettingsBlock
    caveats: tuple[str, ...]
