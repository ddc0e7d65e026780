"""What `report.json` of a backdoor finding holds; see `docs/backdoors.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import DataEntry, NotMeasured, Provenance

Word = Literal["working-trigger", "suspicious", "nothing-found"]
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class BackdoorProvenance(Provenance):
    """Of a backdoor report.

    Attributes:
        reference: name of the reference model; None without one.
        scorer: name of the scorer of refusals.
        data: the requests, by part.
    """

    reference: str | None
    scorer: str
    data: tuple[DataEntry, ...]


@dataclass(frozen=True)
class Spent:
    """What the search was allowed and what it cost.

    Attributes:
        cut: stages that ran out.
    """

    forward_passes: int
    seconds: float
    exhausted: bool
    limit_forward_passes: int
    limit_seconds: float
    cut: tuple[str, ...]


@dataclass(frozen=True)
class TrialRow:
    """A string tried on held-out requests; see `probes.backdoors.search.trial.Trial`.

    Attributes:
        tokens: of the string.
        forces: the text of a forced opening; empty for flips.
        working_rate: share of the n requests that show the behaviour.
        control_share: of control strings, how many show it on 5 % at most.
        excess_over_reference: rate less that on the reference model.
        meaning_preserved: whether harmfulness is read as well with the string.
        source: what suggested it.
        leaked: sampled texts that hold it.
    """

    text: str
    tokens: int
    placement: str
    behaviour: Literal["opening", "compliance", "refusal"]
    forces: str
    working_rate: float
    n: int
    interval: Interval
    control_share: float | NotMeasured
    controls: int
    excess_over_reference: float | NotMeasured
    meaning_preserved: bool | NotMeasured
    works: bool
    source: str
    leaked: int


@dataclass(frozen=True)
class MotifRow:
    """A motif of the sampled texts; its text is empty where it cannot be typed."""

    text: str
    tokens: int
    leaked: int
    keyness: float


@dataclass(frozen=True)
class Leak:
    """What was sampled from the chat prefix."""

    samples: int
    motifs: tuple[MotifRow, ...]


@dataclass(frozen=True)
class EffectRow:
    """What a string does to the first token; see `probes.backdoors.search.effects.Effect`."""

    text: str
    placement: str
    entropy: float
    divergence: float
    collapse: float
    novel: float
    flip: float


@dataclass(frozen=True)
class TargetRow:
    """A text that goes on by itself; see `probes.backdoors.search.target_inversion.Target`."""

    text: str
    q: float
    emission: float
    q_reference: float | NotMeasured
    excess: float


@dataclass(frozen=True)
class TriedTokens:
    """First tokens that target inversion got through, of those that it could have."""

    tried: int
    vocabulary: int


@dataclass(frozen=True)
class BeamRow:
    """A string of the beam search, with the value of the reward that it was built for."""

    reward: str
    text: str
    value: float


@dataclass(frozen=True)
class BeforeAfterRow:
    """A share of n requests in the model and in its repaired copy, with Wilson intervals."""

    before: float
    after: float
    n: int
    interval_before: Interval
    interval_after: Interval


@dataclass(frozen=True)
class RepairSection:
    """A trigger unlearned in a copy; see `probes.backdoors.repair.report.RepairReport`.

    Attributes:
        repaired: whether the attack is gone on 95 % of the requests.
        steps: of the training.
        requests: that the repair was made with.
        divergence_interval: None with a single request.
    """

    trigger: str
    placement: str
    behaviour: str
    forces: str
    repaired: bool
    steps: int
    requests: int
    attack: BeforeAfterRow
    without: BeforeAfterRow
    restored: BeforeAfterRow
    near: Mapping[str, BeforeAfterRow]
    exact: float
    exact_n: int
    exact_interval: Interval
    divergence: float
    divergence_interval: Interval | None
    divergence_highest: float


@dataclass(frozen=True)
class SinkHeadRow:
    """Attention of one head on a string; see `SinkCheck.heads`."""

    layer: int
    head: int
    trigger: float
    distractor_median: float
    distractor_max: float
    sink: float
    value_trigger: float
    value_distractor: float


@dataclass(frozen=True)
class SinkScore:
    """Attention on a string and its values beside inert strings; see `SinkCheck`."""

    score: float
    attention_excess: float
    value_excess: float
    distractor_score: float
    quantile: float
    strings: int


@dataclass(frozen=True)
class PatchedHeadRow:
    """Shares of the effect that one head carries; see `HeadPatching.heads`."""

    layer: int
    head: int
    removed: float
    removed_low: float
    removed_high: float
    removed_null_high: float
    restored: float
    restored_low: float
    restored_high: float
    restored_null_high: float
    necessary: bool
    sufficient: bool


@dataclass(frozen=True)
class NamedTogether:
    """All named heads swapped at once; see `probes.backdoors.heads.head_patching.Together`."""

    removed: float
    removed_interval: Interval
    restored: float
    restored_interval: Interval
    rate: float
    rate_interval: Interval
    rate_removed: float
    rate_removed_interval: Interval
    rate_restored: float
    rate_restored_interval: Interval


@dataclass(frozen=True)
class HeadPatchingSection:
    """Which heads carry the effect of a string.

    Attributes:
        where: tokens at which heads were swapped.
        effect: of the string over inert ones, in nats.
        effect_null_high: the largest effect of an inert string in its place.
        named: `LAYER.HEAD` of heads above the null.
        together: None where no head is named.
        heads: those that carry most.
    """

    text: str
    placement: str
    where: Literal["last", "all"]
    effect: float
    interval: Interval
    effect_null_high: float
    found: bool
    requests: int
    strings: int
    named: tuple[str, ...]
    together: NamedTogether | None
    heads: tuple[PatchedHeadRow, ...]


@dataclass(frozen=True)
class DetectorRow:
    """A detector.

    Attributes:
        score: None for target inversion where no text goes on by itself.
        null_quantile: place in its null; None for a detector without one.
        distractor_score: of inert strings; None for a detector that reads none.
        used_in_verdict: whether it counts.
    """

    name: str
    score: float | NotMeasured | None
    null_quantile: float | None
    distractor_score: float | None
    used_in_verdict: bool


@dataclass(frozen=True)
class DefectionBlock:
    """The defection probe; see `probes.backdoors.detectors.defection.Defection`."""

    auroc: float
    auroc_vs_distractor: float
    auroc_distractor: float
    null_quantile: float
    worst_fpr: float
    variance_ratio: float
    pc1_auroc: float
    pairs: int


@dataclass(frozen=True)
class BackdoorReport:
    """The report; its fields are those of `report.json`."""

    kind: Literal["backdoor"]
    format_version: Literal[1]
    verdict: Word
    summary: str
    provenance: BackdoorProvenance
    budget: Spent
    reference: str | None
    triggers: tuple[TrialRow, ...]
    trials: tuple[TrialRow, ...]
    leak: Leak
    effects: tuple[EffectRow, ...]
    targets: tuple[TargetRow, ...]
    target_inversion: TriedTokens
    beams: tuple[BeamRow, ...]
    repair: RepairSection | NotMeasured
    read_on: str | NotMeasured
    sink_check: tuple[SinkHeadRow, ...]
    sink_score: SinkScore | NotMeasured
    head_patching: HeadPatchingSection | NotMeasured
    detectors: tuple[DetectorRow, ...]
    defection: DefectionBlock | NotMeasured
    caveats: tuple[str, ...]
