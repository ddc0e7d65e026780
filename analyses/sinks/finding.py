"""The sink finding, put together from measurements."""

from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from analyses.shared.reports import NotMeasured, as_json
from analyses.shared.tables import frame_of
from analyses.sinks import tables
from analyses.sinks.causal import CausalEffects
from analyses.sinks.domains import domain_head_rows, domain_rows
from analyses.sinks.measure import Measurements
from analyses.sinks.report import (
    NO_CAUSAL_PANEL,
    CausalPanel,
    DomainHeadRow,
    DomainRow,
    HeadRow,
    Interval,
    LayerRow,
    MassiveRow,
    Parity,
    PositionRow,
    RateAt,
    SinkProvenance,
    SinkRate,
    SinkReport,
    TokenRow,
)
from analyses.sinks.verdict import verdict
from interp.capture.recorder import EMBED, FINAL
from interp.checkpoint import Checkpoint
from interp.statistics.intervals import bootstrap, mean_interval, share_interval

Floats = NDArray[np.floating]
FORMAT_VERSION: Literal[1] = 1
EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5)


class SinkFinding(Finding):
    """What the extreme tokens and gates of a checkpoint do.

    `report` follows the schema in `docs/report.md`; the tables are `heads`, `layers`,
    `massive_activations`, `positions`, `sink_tokens`, `domains` and `domain_heads`.
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.sinks.figures import DRAWING

        return DRAWING

    @property
    def heads(self) -> pd.DataFrame:
        """One row for each head of each softmax layer."""
        return self.tables["heads"]

    @property
    def layers(self) -> pd.DataFrame:
        """One row for each layer."""
        return self.tables["layers"]


def build(
    checkpoint: Checkpoint,
    found: Measurements,
    effects: CausalEffects | None,
    parity: Parity,
    provenance: SinkProvenance,
    *,
    epsilon: float,
    seed: int,
) -> SinkFinding:
    """Compute all rows and the head numbers; no model runs here."""
    anatomy = checkpoint.anatomy
    attention, attention_interval = _first_token_attention(found, seed)
    m_act, m_act_interval = _m_act(found, seed)
    embedding, final_norm = tables.outer_states(found)
    report = SinkReport(
        kind="sinks",
        format_version=FORMAT_VERSION,
        verdict="",
        provenance=provenance,
        sink_rate=_sink_rate(found, epsilon, seed),
        first_token_attention=attention,
        first_token_attention_interval=attention_interval,
        m_act=m_act,
        m_act_interval=m_act_interval,
        heads=tables.head_rows(anatomy, found, epsilon, effects, seed),
        layers=tables.layer_rows(anatomy, found, epsilon),
        massive_activations=tables.massive_rows(checkpoint, found),
        positions=tables.position_rows(anatomy, found, seed),
        sink_tokens=tables.token_rows(checkpoint, found, epsilon),
        domains=domain_rows(found, effects, epsilon, seed),
        domain_heads=domain_head_rows(found, effects, seed),
        embedding=embedding,
        final_norm=final_norm,
        causal=NO_CAUSAL_PANEL if effects is None else _causal(effects, seed),
        parity=parity,
        caveats=[_causal_caveat(checkpoint, effects), *_caveats(checkpoint, found)],
    )
    from analyses.report.writing import plain

    whole = as_json(report)
    return SinkFinding(whole | {"verdict": verdict(plain(whole))}, _frames(report))


def _frames(report: SinkReport) -> dict[str, pd.DataFrame]:
    return {
        "heads": frame_of(report.heads, HeadRow),
        "layers": frame_of(report.layers, LayerRow),
        "massive_activations": frame_of(report.massive_activations, MassiveRow),
        "positions": frame_of(report.positions, PositionRow),
        "sink_tokens": frame_of(report.sink_tokens, TokenRow),
        "domains": frame_of(report.domains, DomainRow),
        "domain_heads": frame_of(report.domain_heads, DomainHeadRow),
    }


def _alpha(found: Measurements) -> Floats:
    """Attention on the first token, [sequences, heads of all layers]."""
    records = found.records["first_key"]
    return np.concatenate([records.at("alpha", layer) for layer in records.layers("alpha")], 1)


def _sink_rate(found: Measurements, epsilon: float, seed: int) -> SinkRate:
    """Sink rate with its interval, at the threshold of the verdict and at others."""
    alpha = _alpha(found)
    length = max(len(row) for row in found.rows.rows)
    rate = _rate(alpha, epsilon, seed)
    return SinkRate(
        epsilon=epsilon,
        length=length,
        percent=rate.percent,
        interval=rate.interval,
        sequences=len(alpha),
        uniform_alpha=float(np.mean(1 / np.arange(1, length + 1))),
        by_epsilon=[_rate(alpha, at, seed) for at in sorted({*EPSILONS, epsilon})],
    )


def _rate(alpha: Floats, epsilon: float, seed: int) -> RateAt:
    """Sink_1^ε: 100 · mean over sequences, layers and heads of 1[α_1 > ε]."""
    shares = (alpha > epsilon).mean(1)
    interval = tables.percent(share_interval(shares, seed))
    return RateAt(epsilon=epsilon, percent=100.0 * float(shares.mean()), interval=interval)


def _first_token_attention(found: Measurements, seed: int) -> tuple[float, Interval | NotMeasured]:
    """F-Attn with its interval."""
    alpha = _alpha(found)
    interval = mean_interval(alpha.mean(1, dtype=np.float64), seed)
    return float(alpha.mean(dtype=np.float64)), tables.interval_or_reason(interval)


def _m_act(found: Measurements, seed: int) -> tuple[float, Interval | NotMeasured]:
    """M-Act with its interval."""
    residual = found.records["residual"]
    blocks = [layer for layer in residual.layers("max_abs") if layer not in (EMBED, FINAL)]
    maxima = np.stack([residual.at("max_abs", layer) for layer in blocks], 1)
    low, high = bootstrap(maxima, seed, lambda sample: sample.max(0).mean())
    interval = None if len(maxima) < 2 else (float(low), float(high))
    return float(maxima.max(0).mean()), tables.interval_or_reason(interval)


def _causal(effects: CausalEffects, seed: int) -> CausalPanel:
    return CausalPanel(
        sequences=len(effects.rows),
        baseline_loss=float(effects.loss.mean()),
        interval=tables.interval_or_reason(mean_interval(effects.loss, seed)),
    )


def _causal_caveat(checkpoint: Checkpoint, effects: CausalEffects | None) -> str:
    if effects is None:
        return "The causal panel was skipped, so nothing is known of what the heads do."
    heads = sum(layer.heads for layer in checkpoint.anatomy.layers)
    return (
        f"The causal panel edits one head at a time on {len(effects.rows)} sequences and compares "
        f"{heads} heads without a correction for many comparisons; heads that stand in for each "
        "other show no effect alone."
    )


def _caveats(checkpoint: Checkpoint, found: Measurements) -> list[str]:
    """What a reader must know before using the numbers; only what applies."""
    anatomy = checkpoint.anatomy
    notes = []
    lengths = {len(row) for row in found.rows.rows}
    if len(lengths) > 1:
        notes.append(
            f"Rows have {min(lengths)} to {max(lengths)} tokens; the sink rate depends on length, "
            "so it is not comparable with a rate at one length."
        )
    if checkpoint.dtype != torch.float32:
        notes.append(
            "The weights are in half precision: statistics were not held against eager attention, "
            "which rounds its scores; load with dtype float32 to have them checked."
        )
    if len(found.rows) < 2:
        notes.append("One sequence only: no interval can be given.")
    windowed = [i for i, layer in enumerate(anatomy.layers) if layer.attention == "sliding"]
    hidden = [i for i in windowed if (anatomy.layers[i].window or 0) < max(lengths)]
    if hidden:
        notes.append(
            f"Layers {_spoken(hidden)} attend within a window shorter than the rows: late queries "
            "cannot see the first token there, which lowers α₁ without telling anything of a sink, "
            "and their heads cannot be moved to the sink."
        )
    linear = [i for i, layer in enumerate(anatomy.layers) if layer.attention == "linear"]
    if linear:
        notes.append(
            f"Layers {_spoken(linear)} have no softmax attention and are in no head statistic."
        )
    if anatomy.gated_layers:
        notes.append(
            "Attention weights are taken before the output gate; gated_sink_mass weighs them by it."
        )
    if any(layer.learned_sink for layer in anatomy.layers):
        notes.append(
            "Rows sum to less than one: what goes to a learned sink counts for no token, and "
            "entropies describe the distribution over tokens."
        )
    most, listed = tables.most_massive(found)
    if most > listed:
        notes.append(
            f"One hidden state has {most} massive activations; the table lists the {listed} "
            "largest of each."
        )
    if anatomy.softcap is not None:
        notes.append(
            "Scores are soft-capped, so the logit gap, which needs them linear, is left out."
        )
    notes.append(
        f"entropy_sink marks heads with row entropy below {tables.ROW_ENTROPY_BELOW} and column "
        f"entropy above {tables.COLUMN_ENTROPY_ABOVE}, thresholds of ours."
    )
    notes.append(
        "Sinks, massive activations and drained values are separate measurements; none is inferred "
        "from another, and attention on a token does not say that the token matters: see the "
        "ablations, where they were run."
    )
    return notes


def _spoken(layers: list[int]) -> str:
    if len(layers) > 8:
        return f"{', '.join(map(str, layers[:8]))} and {len(layers) - 8} more"
    return ", ".join(map(str, layers))
