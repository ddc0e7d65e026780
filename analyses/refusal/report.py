"""What `report.json` of a refusal finding holds. The quantities are in `docs/refusal.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyses.refusal.report_effects import (
    AttributionRow,
    DoseRow,
    FirstDivergence,
    HarmAddedRow,
    Interval,
    InversionRow,
    RandomRateRow,
    RatesBySet,
    Strip,
    Transcript,
    UtilityRow,
)
from analyses.shared.reports import DataEntry, NotMeasured, Provenance

Grid = tuple[tuple[float | None, ...], ...]
NOT_EQUALISED = NotMeasured("the prompts were not equalised")


@dataclass(frozen=True, kw_only=True)
class RefusalProvenance(Provenance):
    """What was measured, and how.

    Attributes:
        template: further arguments of the chat template.
        max_new_tokens: of an answer.
        data: the training, validation and test prompts.
    """

    template: Mapping[str, object]
    max_new_tokens: int
    data: tuple[DataEntry, ...]


@dataclass(frozen=True)
class SelectedDirection:
    """The selected candidate and how it was selected.

    Attributes:
        layer: whose input it is read from.
        position: of the token, counted from the end of the prompt.
        segment: of the prompt that the token belongs to.
        bypass: mean log-odds of refusal on harmful prompts with it ablated.
        induce: mean log-odds of refusal on harmless prompts with it added.
        kl: nats, of the next token of harmless prompts with it ablated.
        survivors: candidates that pass the filters.
        candidates: that were scored.
        why_not: why no candidate could be scored; None if they were.
        chosen_share: of bootstrap resamples in which it is chosen.
        near_ties: further candidates whose bypass score does not differ from its own at 95 %.
        norm: its length.
        relative_norm: its length over the mean norm of the residual.
    """

    layer: int | NotMeasured
    position: int | NotMeasured
    segment: str | NotMeasured
    bypass: float | NotMeasured
    induce: float | NotMeasured
    kl: float | NotMeasured
    survivors: int
    candidates: int
    why_not: str | None
    chosen_share: float | NotMeasured
    near_ties: int | NotMeasured
    norm: float | NotMeasured
    relative_norm: float | NotMeasured


@dataclass(frozen=True)
class SeparationRow:
    """AUROC of harmful against harmless test prompts at one layer and position."""

    layer: int
    segment_position: int
    auroc: float
    interval: Interval
    interval_method: str
    null_max: float
    last_token_floor: float
    null_quantile: float
    n: int
    random_isotropic: float
    random_covariance: float


@dataclass(frozen=True)
class TprAtFpr:
    """True-positive rate at a false-positive rate; `why_not` says why there is none."""

    fpr: float
    tpr: float | NotMeasured
    interval: Interval | NotMeasured
    threshold: float | NotMeasured
    why_not: str | None


@dataclass(frozen=True)
class ClassSizes:
    """Prompts on both sides of an AUROC."""

    positives: int
    negatives: int


@dataclass(frozen=True)
class LatentGuardScores:
    """Latent Guard on the prompts that `on` names."""

    auroc: float
    interval: Interval
    interval_method: str
    on: str
    n: ClassSizes
    tpr_at_fpr: tuple[TprAtFpr, ...]
    paper_auroc: float
    by_label: Mapping[str, float]


@dataclass(frozen=True)
class LabelSizes:
    """Prompts that ask for something harmful, and others."""

    harmful: int
    harmless: int


@dataclass(frozen=True)
class CellSizes:
    """Prompts by what the checkpoint does with them and what they ask for."""

    refused_harmful: int
    refused_harmless: int
    accepted_harmful: int
    accepted_harmless: int


@dataclass(frozen=True)
class CellSizesByPart:
    """Training and test prompts in each cell."""

    train: CellSizes
    test: CellSizes


@dataclass(frozen=True)
class Harmfulness:
    """How well the harmfulness direction is read, layer by layer."""

    auroc_t_inst_by_layer: tuple[float, ...]
    auroc_t_inst_interval_by_layer: tuple[Interval, ...]
    auroc_t_post_inst_by_layer: tuple[float, ...]
    auroc_t_post_inst_interval_by_layer: tuple[Interval, ...]
    cosine_with_refusal_by_layer: tuple[float, ...]
    interval_method: str
    latent_guard: LatentGuardScores
    n: LabelSizes
    cells: CellSizesByPart


@dataclass(frozen=True)
class VerdictCounts:
    """How many answers a scorer gives each verdict."""

    refusal: int
    partial: int
    compliance: int
    empty: int
    looping: int


@dataclass(frozen=True)
class AgreementRow:
    """How far two scorers agree; see `probes.scorers.agreement`."""

    first: str
    second: str
    n: int
    apart: int
    equal: float | None
    low: float | None
    high: float | None
    kappa: float | None


@dataclass(frozen=True)
class ScorerComparison:
    """Scorers side by side.

    Attributes:
        counted: the scorer of the rates.
        verdicts: counts by scorer.
        agreement: of every pair.
        disagreements: answers on which not all scorers agree.
        examples: some of these: `prompt`, `answer`, and each scorer's verdict under its name.
        n: answers.
    """

    counted: str
    verdicts: Mapping[str, VerdictCounts]
    agreement: tuple[AgreementRow, ...]
    disagreements: int
    examples: tuple[Mapping[str, str], ...]
    n: int


@dataclass(frozen=True)
class CandidateRow:
    """A candidate for the refusal direction; `discarded` is empty or names the filter."""

    layer: int
    position: int
    bypass: float | None
    induce: float | None
    kl: float | None
    discarded: str
    chosen_share: float
    near_tie: bool


@dataclass(frozen=True)
class FirstTokens:
    """First tokens of refusals; see `probes.scorers.RefusalTokens`."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    refused: tuple[float, ...]
    complied: tuple[float, ...]
    hits: float
    false_alarms: float


@dataclass(frozen=True)
class RefusalSeparationRow:
    """AUROC of refused against accepted prompts, within harmful and within harmless ones."""

    layer: int
    segment_position: int
    auroc: float | None
    null_max: float | None


@dataclass(frozen=True)
class GeometryRow:
    """Length, stability and concentration of a direction."""

    layer: int
    segment_position: int
    norm: float
    relative_norm: float
    split_half_cosine: float
    massive_share: float | None
    mean_cosine: float | None


@dataclass(frozen=True)
class CosineMaps:
    """Cosines between the directions of all layers."""

    harmfulness: Grid
    refusal: Grid


@dataclass(frozen=True)
class MeanBelief:
    """Mean beliefs of the prompts of a cell."""

    harm: float
    refuse: float
    n: int


@dataclass(frozen=True)
class BeliefPoint:
    """The beliefs of one prompt."""

    harm: float
    refuse: float
    harmful: bool
    refused: bool
    label: str


@dataclass(frozen=True)
class Beliefs:
    """The plane of beliefs; `means` by cell, without the empty ones."""

    means: Mapping[str, MeanBelief]
    points: tuple[BeliefPoint, ...]
    shown: int
    n: int


@dataclass(frozen=True)
class Surface:
    """How well the surface told harmful from harmless prompts, before and after equalising."""

    length_auroc: tuple[float, float] | NotMeasured = NOT_EQUALISED
    mark_auroc: tuple[float, float] | NotMeasured = NOT_EQUALISED
    dropped: Mapping[str, int] | NotMeasured = NOT_EQUALISED


@dataclass(frozen=True, kw_only=True)
class RefusalReport:
    """All of a refusal finding, as `report.json` holds it."""

    kind: Literal["refusal"] = "refusal"
    format_version: Literal[1] = 1
    verdict: str
    provenance: RefusalProvenance
    direction: SelectedDirection
    separation: tuple[SeparationRow, ...]
    harmfulness: Harmfulness
    rates: RatesBySet
    scorers: ScorerComparison
    selection: tuple[CandidateRow, ...]
    refusal_tokens: FirstTokens | NotMeasured
    refusal_separation: tuple[RefusalSeparationRow, ...]
    geometry: tuple[GeometryRow, ...]
    cosine_map: CosineMaps
    beliefs: Beliefs
    inversion: tuple[InversionRow, ...]
    inversion_unplaced: int
    harm_added: tuple[HarmAddedRow, ...]
    random_rates: tuple[RandomRateRow, ...] | NotMeasured
    dose_response: tuple[DoseRow, ...] | NotMeasured
    first_divergence: FirstDivergence | NotMeasured
    utility: tuple[UtilityRow, ...] | NotMeasured
    attribution: tuple[AttributionRow, ...] | NotMeasured
    strips: tuple[Strip, ...] | NotMeasured
    surface: Surface
    transcripts: tuple[Transcript, ...]
    caveats: tuple[str, ...]
