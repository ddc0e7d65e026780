"""The types that the `report.json` of the Bigram-Backcopy finding is written from.

Risks are cross-entropies against the true law, in nats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingProvenance:
    """What was trained and measured, and how the run is made again.

    Attributes:
        model: what the models are, in words.
        seeds: of initialisation and data, separated by commas.
        steps: of each training run.
        sequences_per_point: that each point of a curve is measured on.
        curve_length: tokens in each of them.
        summary_length: tokens in a sequence of the summary.
        command: by which the run was begun; None from Python.
    """

    model: str
    seeds: str
    steps: int
    sequences_per_point: int
    curve_length: int
    summary_length: int
    started: str
    wall_seconds: float
    versions: Mapping[str, str]
    command: str | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The quantities of the curves, of one layer at one step.

    Means over heads, sequences and, where they depend on the query, over dormant queries; None
    without a gate.

    Attributes:
        backcopy_risk: of the whole model at triggers; the oracle has 0.
        bigram_risk: of the whole model at dormant queries.
        bigram_excess: the same minus the entropy of the law.
        bos_attention: attention on BOS.
        value_ratio: norm of the value state of BOS over the median of the others.
        gate_dormant: mean gate at dormant queries.
        gate_active: mean gate at triggers.
        gated_sink_mass: attention on BOS weighted by the gate.
        logit_gap: logit of BOS minus the mean logit of the other visible keys without the query.
        value_norm: ‖W_O v_0‖ of BOS.
        value_norm_rest: the median of the others.
        raw_value_norm: ‖v_0‖ of BOS.
        residual_norm: norm of the residual stream at BOS after the layer.
        residual_peak: the same minus the mean of the others.
    """

    backcopy_risk: float
    bigram_risk: float
    bigram_excess: float
    bos_attention: float
    value_ratio: float
    gate_dormant: float | None
    gate_active: float | None
    gated_sink_mass: float | None
    logit_gap: float
    value_norm: float
    value_norm_rest: float
    raw_value_norm: float
    residual_norm: float
    residual_peak: float


@dataclass(frozen=True)
class CurvePoint:
    """One number of a curve: a field of `Snapshot`, of the copying layer."""

    variant: str
    seed: int
    step: int
    quantity: str
    value: float


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One model after its last step; of its copying layer, means over heads and late queries.

    Attributes:
        copying_layer: the layer whose zeroing harms the copy most.
        zeroed_backcopy_risk: `backcopy_risk` with the heads of that layer zeroed.
        zeroed_bigram_change: change of `bigram_risk` by the same.
        as_owed: whether the model behaves as its recipe demands.
        cpu_seconds: of training.
    """

    variant: str
    label: str
    seed: int
    backcopy_risk: float
    bigram_risk: float
    bigram_excess: float
    copying_layer: int
    bos_attention: float
    bos_attention_active: float
    value_ratio: float
    raw_value_ratio: float
    gate_dormant: float | None
    gate_active: float | None
    gated_sink_mass: float | None
    residual_ratio: float
    zeroed_backcopy_risk: float
    zeroed_bigram_change: float
    as_owed: bool
    parameters: int
    cpu_seconds: float


@dataclass(frozen=True)
class Tables:
    """The curves in long format, and one row for each trained model."""

    dynamics: Sequence[CurvePoint]
    summary: Sequence[TrainedModel]


@dataclass(frozen=True)
class BigramBackcopyReport:
    """What `report.json` of the Bigram-Backcopy finding holds."""

    kind: Literal["bigram_backcopy"]
    format_version: Literal[1]
    verdict: str
    provenance: TrainingProvenance
    tables: Tables
    caveats: Sequence[str]
