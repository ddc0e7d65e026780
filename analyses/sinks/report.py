"""The types that the `report.json` of the sink finding is written from.

Quantities and their units are in `docs/quantities.md`. Layers, heads, positions and dimensions are
0-based. `interval`, `…_interval`, `…_low` and `…_high` are ends at 95 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import DataEntry, NotMeasured, Provenance

Interval = tuple[float, float]
AttentionKind = Literal["full", "sliding", "chunked", "linear"]
TokenKind = Literal["bos", "first", "delimiter", "other"]

NO_CAUSAL_PANEL = NotMeasured("the causal panel was skipped (`causal_sequences` is 0)")
ONE_SEQUENCE = NotMeasured("an interval needs two sequences")
UNEQUAL_LENGTHS = NotMeasured("sequences differ in length, so late positions have fewer of them")


@dataclass(frozen=True)
class DomainEntry(DataEntry):
    """The texts of one domain.

    Attributes:
        skipped: documents that have fewer tokens than a sequence.
    """

    skipped: int


@dataclass(frozen=True, kw_only=True)
class SinkProvenance(Provenance):
    """What was measured, and how attention was observed.

    Attributes:
        attention: `auto`, or `eager` for the model's own weights.
        bos: whether sequences start with BOS.
        data: by domain.
    """

    attention: Literal["auto", "eager"]
    bos: bool
    data: Sequence[DomainEntry]


@dataclass(frozen=True)
class RateAt:
    """The sink rate at one threshold, in per cent of sequences × layers × heads."""

    epsilon: float
    percent: float
    interval: Interval | NotMeasured


@dataclass(frozen=True)
class SinkRate:
    """The sink rate, in per cent, at the threshold of the verdict and at others.

    Attributes:
        epsilon: threshold of the verdict.
        length: tokens in the longest sequence.
        uniform_alpha: what uniform attention puts on the first token at that length.
    """

    epsilon: float
    length: int
    percent: float
    interval: Interval | NotMeasured
    sequences: int
    uniform_alpha: float
    by_epsilon: Sequence[RateAt]


@dataclass(frozen=True)
class HeadRow:
    """One head of a softmax layer; means over sequences.

    None stands where the head has no such quantity: no gate, no learned sink, a soft-capped score,
    or a window that cannot see the first token. The change of the loss is in nats per token.
    """

    layer: int
    head: int
    kv_head: int
    attention: AttentionKind
    alpha_first: float
    alpha_first_low: float | NotMeasured
    alpha_first_high: float | NotMeasured
    sink_percent: float
    sink_mass: float | None
    gated_sink_mass: float | None
    sink_output_share: float | None
    value_norm_first: float | None
    value_norm_rest: float | None
    key_norm_first: float | None
    key_norm_rest: float | None
    entropy: float | None
    column_entropy: float | None
    participation: float | None
    logit_gap: float | None
    learned_sink: float | None
    gate_mean: float | None
    gate_below_0_01: float | None
    gate_below_0_1: float | None
    output_norm: float | None
    output_norm_gated: float | None
    value_ratio: float | None
    raw_value_ratio: float | None
    entropy_sink: bool | None
    ablation_delta_loss: float | NotMeasured | None = NO_CAUSAL_PANEL
    ablation_delta_loss_low: float | NotMeasured | None = NO_CAUSAL_PANEL
    ablation_delta_loss_high: float | NotMeasured | None = NO_CAUSAL_PANEL
    move_to_sink_delta_loss: float | NotMeasured | None = NO_CAUSAL_PANEL
    move_to_sink_delta_loss_low: float | NotMeasured | None = NO_CAUSAL_PANEL
    move_to_sink_delta_loss_high: float | NotMeasured | None = NO_CAUSAL_PANEL
    random_delta_loss: float | NotMeasured | None = NO_CAUSAL_PANEL
    random_delta_loss_low: float | NotMeasured | None = NO_CAUSAL_PANEL
    random_delta_loss_high: float | NotMeasured | None = NO_CAUSAL_PANEL


@dataclass(frozen=True)
class ResidualState:
    """One hidden state: L2 norms of the first token and of the others, and |activations|."""

    residual_norm_first: float
    residual_norm_rest: float
    residual_peak: float
    residual_ratio: float | None
    max_abs: float
    median_abs: float


@dataclass(frozen=True)
class LayerRow:
    """One layer: `resid_post`, and means over its heads (None without softmax attention)."""

    layer: int
    attention: AttentionKind
    residual_norm_first: float
    residual_norm_rest: float
    residual_peak: float
    residual_ratio: float | None
    max_abs: float
    median_abs: float
    first_token_attention: float | None
    gate_mean: float | None
    sink_percent: float | None


@dataclass(frozen=True)
class MassiveRow:
    """A massive activation; `value` and `median` are means over the `sequences` that show it."""

    layer: int
    position: int
    token: str
    dim: int
    value: float
    median: float
    sequences: int


@dataclass(frozen=True)
class PositionRow:
    """Attention that a key position receives, and what uniform attention would give it."""

    position: int
    mass: float
    low: float | NotMeasured
    high: float | NotMeasured
    uniform: float


@dataclass(frozen=True)
class TokenRow:
    """A token that acts as a sink.

    Attributes:
        heads: with the peak of their attention on it, mean over sequences.
        mass: attention that it receives from them.
    """

    token: str
    kind: TokenKind
    position: int
    heads: float
    mass: float


@dataclass(frozen=True)
class DomainRow:
    """One domain: sink rate in per cent, attention on the first token, loss in nats per token."""

    name: str
    sequences: int
    skipped: int
    sink_percent: float
    interval: Interval | NotMeasured
    first_token_attention: float
    first_token_interval: Interval | NotMeasured
    loss: float | NotMeasured


@dataclass(frozen=True)
class DomainHeadRow:
    """A head between the domain where its sink mass is lowest and the one where it is highest.

    Attributes:
        auc: of the sink mass over sequences, with its interval (Newcombe).
        delta_loss_low: change of the loss in the lowest domain when the head is zeroed, in nats.
        excess_low: the same minus that of noise of equal norm.
        excess_low_from: lower end of its interval.
        switching: active in the lowest domain and dormant in the highest.
    """

    layer: int
    head: int
    domain_low: str
    domain_high: str
    sink_mass_low: float
    sink_mass_high: float
    auc: float
    auc_low: float
    auc_high: float
    delta_loss_low: float | NotMeasured = NO_CAUSAL_PANEL
    delta_loss_high: float | NotMeasured = NO_CAUSAL_PANEL
    excess_low: float | NotMeasured = NO_CAUSAL_PANEL
    excess_low_from: float | NotMeasured = NO_CAUSAL_PANEL
    excess_high: float | NotMeasured = NO_CAUSAL_PANEL
    excess_high_from: float | NotMeasured = NO_CAUSAL_PANEL
    switching: bool | NotMeasured = NO_CAUSAL_PANEL


@dataclass(frozen=True)
class CausalPanel:
    """The sequences of the causal panel and their unedited loss, in nats per token."""

    sequences: int
    baseline_loss: float
    interval: Interval | NotMeasured


@dataclass(frozen=True)
class Parity:
    """How far the instrumented pass is from the plain model, on a few rows.

    Attributes:
        max_logit_difference: from the model as it was given.
        largest_logit: largest |logit| there.
        max_statistic_difference: from its eager T×T weights, relative to the larger of 1 and the
            value.
    """

    max_logit_difference: float
    largest_logit: float
    max_statistic_difference: float | NotMeasured


@dataclass(frozen=True)
class SinkReport:
    """What `report.json` of the sink finding holds.

    Attributes:
        first_token_attention: F-Attn, mean over sequences and heads.
        m_act: largest |activation| of a layer's output, mean of layers.
        embedding: the hidden state before the first block.
        final_norm: the hidden state after the final norm.
    """

    kind: Literal["sinks"]
    format_version: Literal[1]
    verdict: str
    provenance: SinkProvenance
    sink_rate: SinkRate
    first_token_attention: float
    first_token_attention_interval: Interval | NotMeasured
    m_act: float
    m_act_interval: Interval | NotMeasured
    heads: Sequence[HeadRow]
    layers: Sequence[LayerRow]
    massive_activations: Sequence[MassiveRow]
    positions: Sequence[PositionRow]
    sink_tokens: Sequence[TokenRow]
    domains: Sequence[DomainRow]
    domain_heads: Sequence[DomainHeadRow]
    embedding: ResidualState
    final_norm: ResidualState
    causal: CausalPanel | NotMeasured
    parity: Parity
    caveats: Sequence[str]
