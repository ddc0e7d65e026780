"""From per-row records to the rows of the report."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.shared.reports import NotMeasured
from analyses.sinks.causal import EDITS, CausalEffects
from analyses.sinks.measure import Measurements, Quantity, RecorderName
from analyses.sinks.report import (
    ONE_SEQUENCE,
    UNEQUAL_LENGTHS,
    HeadRow,
    Interval,
    LayerRow,
    MassiveRow,
    PositionRow,
    ResidualState,
    TokenKind,
    TokenRow,
)
from interp.capture.recorder import EMBED, FINAL
from interp.capture.residual import MASSIVE_ABSOLUTE, MASSIVE_RATIO
from interp.checkpoint import Checkpoint
from interp.model.anatomy import Anatomy
from interp.statistics.intervals import bootstrap

Floats = NDArray[np.floating]
# Guo et al.'s detector needs two thresholds that their code leaves to the caller; these are ours.
ROW_ENTROPY_BELOW, COLUMN_ENTROPY_ABOVE = 0.3, 0.9
_MOST_TOKENS = 50


def head_rows(
    anatomy: Anatomy, found: Measurements, epsilon: float, effects: CausalEffects | None, seed: int
) -> list[HeadRow]:
    """One row for each head of each softmax layer; means over sequences."""
    rows = [
        row
        for layer in anatomy.softmax_layers
        for row in _layer_heads(anatomy, found, layer, epsilon, seed)
    ]
    return rows if effects is None else _with_effects(rows, effects, seed)


def _layer_heads(
    anatomy: Anatomy, found: Measurements, layer: int, epsilon: float, seed: int
) -> list[HeadRow]:
    here = anatomy.layers[layer]
    alpha = found.records["first_key"].at("alpha", layer)
    low, high = bootstrap(alpha, seed)
    means, shares = alpha.mean(0, dtype=np.float64), 100.0 * (alpha > epsilon).mean(0)
    of = _HeadMeans(found, layer, here.heads)
    return [
        HeadRow(
            layer=layer,
            head=head,
            kv_head=head // (here.heads // here.kv_heads),
            attention=here.attention,
            alpha_first=float(means[head]),
            alpha_first_low=end(low[head]),
            alpha_first_high=end(high[head]),
            sink_percent=float(shares[head]),
            sink_mass=of("first_key", "sink_mass", head),
            gated_sink_mass=of("gates", "gated_sink_mass", head),
            sink_output_share=of("outputs", "sink_share", head),
            value_norm_first=of("values", "first", head),
            value_norm_rest=of("values", "rest", head),
            key_norm_first=of("keys", "first", head),
            key_norm_rest=of("keys", "rest", head),
            entropy=of("rows", "entropy", head),
            column_entropy=of("columns", "column_entropy", head),
            participation=of("rows", "participation", head),
            logit_gap=of("logit_gap", "logit_gap", head),
            learned_sink=of("learned_sink", "learned_sink", head),
            gate_mean=of("gates", "mean", head),
            gate_below_0_01=of("gates", "below_0_01", head),
            gate_below_0_1=of("gates", "below_0_1", head),
            output_norm=of("outputs", "before", head),
            output_norm_gated=of("outputs", "after", head),
            value_ratio=_ratio(of("values", "first", head), of("values", "rest", head)),
            raw_value_ratio=_ratio(of("values", "raw_first", head), of("values", "raw_rest", head)),
            entropy_sink=_is_entropy_sink(
                of("rows", "entropy", head), of("columns", "column_entropy", head)
            ),
        )
        for head in range(here.heads)
    ]


class _HeadMeans:
    """Means over the sequences of a layer, by head; None where there is no such quantity."""

    def __init__(self, found: Measurements, layer: int, heads: int) -> None:
        self._found, self._layer, self._heads = found, layer, heads
        self._means: dict[tuple[str, str], Floats | None] = {}

    def __call__(self, recorder: RecorderName, quantity: Quantity, head: int) -> float | None:
        if (recorder, quantity) not in self._means:
            self._means[recorder, quantity] = _mean(self._found, recorder, quantity, self._layer)
        values = self._means[recorder, quantity]
        # A quantity of a KV head is that of each of its heads.
        return None if values is None else known(values[head * len(values) // self._heads])


def known(value: float) -> float | None:
    """A number; None for NaN."""
    return None if np.isnan(value) else float(value)


def end(value: float) -> float | NotMeasured:
    """One end of an interval; NaN where there were too few sequences for one."""
    return ONE_SEQUENCE if np.isnan(value) else float(value)


def interval_or_reason(interval: Interval | None) -> Interval | NotMeasured:
    """An interval, or why there is none."""
    return ONE_SEQUENCE if interval is None else interval


def percent(interval: Interval | None) -> Interval | NotMeasured:
    """The interval of a share, in per cent."""
    return ONE_SEQUENCE if interval is None else (100.0 * interval[0], 100.0 * interval[1])


def _ratio(first: float | None, rest: float | None) -> float | None:
    return first / rest if first is not None and rest else None


def _is_entropy_sink(row: float | None, column: float | None) -> bool | None:
    """Guo et al.'s detector; None where an entropy is not known."""
    if row is None or column is None:
        return None
    return row < ROW_ENTROPY_BELOW and column > COLUMN_ENTROPY_ABOVE


def _mean(
    found: Measurements, recorder: RecorderName, quantity: Quantity, layer: int
) -> Floats | None:
    """Mean over rows, in float64; rows where the quantity is undefined do not count."""
    records = found.records.get(recorder)
    if records is None or quantity not in records or layer not in records.layers(quantity):
        return None
    values = records.at(quantity, layer).astype(np.float64)
    defined = np.isfinite(values)
    counts = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class _Change:
    """Change of the loss by an edit of one head, with its interval."""

    mean: float | None
    low: float | NotMeasured | None
    high: float | NotMeasured | None


def _with_effects(rows: list[HeadRow], effects: CausalEffects, seed: int) -> list[HeadRow]:
    place = {layer: number for number, layer in enumerate(effects.layers)}
    layers, heads = [place[row.layer] for row in rows], [row.head for row in rows]
    zeroed, moved, random = (
        _changes(effects.delta[edit][:, layers, heads], seed) for edit in EDITS
    )
    return [
        replace(
            row,
            ablation_delta_loss=zeroed[number].mean,
            ablation_delta_loss_low=zeroed[number].low,
            ablation_delta_loss_high=zeroed[number].high,
            move_to_sink_delta_loss=moved[number].mean,
            move_to_sink_delta_loss_low=moved[number].low,
            move_to_sink_delta_loss_high=moved[number].high,
            random_delta_loss=random[number].mean,
            random_delta_loss_low=random[number].low,
            random_delta_loss_high=random[number].high,
        )
        for number, row in enumerate(rows)
    ]


def _changes(delta: Floats, seed: int) -> list[_Change]:
    """Of each head, from [sequences, heads]; None throughout where the edit does not apply."""
    lows, highs = bootstrap(delta, seed)
    return [
        _Change(None, None, None) if np.isnan(mean) else _Change(float(mean), end(low), end(high))
        for mean, low, high in zip(delta.mean(0), lows, highs, strict=True)
    ]


def layer_rows(anatomy: Anatomy, found: Measurements, epsilon: float) -> list[LayerRow]:
    """One row for each layer: `resid_post`, and means over the layer's heads."""
    rows = []
    for layer, here in enumerate(anatomy.layers):
        state = residual_state(found, layer)
        alpha = gate = None
        if here.attention != "linear":
            alpha = found.records["first_key"].at("alpha", layer)
            gate = _mean(found, "gates", "mean", layer)
        rows.append(
            LayerRow(
                layer=layer,
                attention=here.attention,
                residual_norm_first=state.residual_norm_first,
                residual_norm_rest=state.residual_norm_rest,
                residual_peak=state.residual_peak,
                residual_ratio=state.residual_ratio,
                max_abs=state.max_abs,
                median_abs=state.median_abs,
                first_token_attention=None if alpha is None else float(alpha.mean()),
                gate_mean=None if gate is None else known(gate.mean()),
                sink_percent=None if alpha is None else 100.0 * float((alpha > epsilon).mean()),
            )
        )
    return rows


def residual_state(found: Measurements, layer: int) -> ResidualState:
    """Norms of one hidden state; `EMBED` and `FINAL` are layers here too."""
    records = found.records["residual"]
    first = float(records.at("first", layer).mean(dtype=np.float64))
    rest = float(records.at("rest", layer).mean(dtype=np.float64))
    return ResidualState(
        residual_norm_first=first,
        residual_norm_rest=rest,
        residual_peak=first - rest,
        residual_ratio=first / rest if rest > 0 else None,
        max_abs=float(records.at("max_abs", layer).max()),
        median_abs=found.medians[layer],
    )


def massive_rows(checkpoint: Checkpoint, found: Measurements) -> list[MassiveRow]:
    """Sun et al.'s massive activations, one row for each coordinate and token.

    Ordered by the number of sequences that show the coordinate, then by place.
    """
    records = found.records["massive"]
    ids = {row.index: row.ids for row in found.rows.rows}
    entries = []
    for layer in records.layers("value"):
        value, median = records.at("value", layer), records.at("median", layer)
        position, dim = records.at("position", layer), records.at("dim", layer)
        for number, slot in zip(*np.nonzero(_massive(value, median)), strict=True):
            at = int(position[number, slot])
            token = ids[int(records.rows[number])][at]
            found_here = (layer, at, token, int(dim[number, slot]))
            entries.append((*found_here, float(value[number, slot]), float(median[number])))
    place = ["layer", "position", "token", "dim"]
    table = pd.DataFrame(entries, columns=[*place, "value", "median"])
    grouped = table.groupby(place, as_index=False).agg(
        value=("value", "mean"), median=("median", "mean"), sequences=("value", "size")
    )
    rows = [
        MassiveRow(
            layer=int(layer),
            position=int(at),
            token=token_text(checkpoint, int(token)),
            dim=int(dim),
            value=float(value),
            median=float(median),
            sequences=int(sequences),
        )
        for layer, at, token, dim, value, median, sequences in grouped.itertuples(index=False)
    ]
    return sorted(rows, key=lambda row: (-row.sequences, row.layer, row.position, row.dim))


def outer_states(found: Measurements) -> tuple[ResidualState, ResidualState]:
    """The hidden states before the first block and after the final norm."""
    return residual_state(found, EMBED), residual_state(found, FINAL)


def most_massive(found: Measurements) -> tuple[int, int]:
    """Most massive activations in one hidden state, and how many of a state the table can list."""
    records = found.records["massive"]
    layers = records.layers("count")
    counts = [int(records.at("count", layer).max()) for layer in layers]
    return max(counts), records.at("value", layers[0]).shape[1]


def _massive(value: Floats, median: Floats) -> NDArray[np.bool_]:
    """|x| > 100 and |x| ≥ 1000·median (arXiv 2402.17762 §2)."""
    size = np.abs(value)
    return (size > MASSIVE_ABSOLUTE) & (size >= MASSIVE_RATIO * median[:, None])


def position_rows(anatomy: Anatomy, found: Measurements, seed: int) -> list[PositionRow]:
    """Column importance α_k by key position, averaged over heads that see every position."""
    records = found.records["columns"]
    length = records.at("alpha", records.layers("alpha")[0]).shape[-1]
    seeing = [
        layer
        for layer in records.layers("alpha")
        if (window := anatomy.layers[layer].window) is None or window >= length
    ]
    layers = seeing or records.layers("alpha")
    by_row = np.mean([records.at("alpha", layer).mean(1) for layer in layers], axis=0)
    mass, uniform = np.nanmean(by_row, axis=0), uniform_columns(length)
    ends: list[tuple[float | NotMeasured, float | NotMeasured]]
    if np.isfinite(by_row).all():
        ends = [(end(low), end(high)) for low, high in zip(*bootstrap(by_row, seed), strict=True)]
    else:
        ends = [(UNEQUAL_LENGTHS, UNEQUAL_LENGTHS)] * length
    return [
        PositionRow(
            position=position,
            mass=float(mass[position]),
            low=low,
            high=high,
            uniform=float(uniform[position]),
        )
        for position, (low, high) in enumerate(ends)
    ]


def uniform_columns(length: int) -> Floats:
    """α_k of uniform causal attention: (H_T − H_{k−1}) / (T − k + 1), k 1-based."""
    inverse = 1.0 / np.arange(1, length + 1)
    tail = inverse[::-1].cumsum()[::-1]
    return tail / np.arange(length, 0, -1)


def token_rows(checkpoint: Checkpoint, found: Measurements, epsilon: float) -> list[TokenRow]:
    """Which tokens are sinks: where a head's column importance peaks above ε.

    Only the first half of the positions counts, because the last columns average few queries.
    `heads` is the mean number of heads in a sequence whose peak lies on that token, `mass` their
    mean α there.
    """
    records = found.records["columns"]
    ids = {row.index: row.ids for row in found.rows.rows}
    entries = []
    for layer in records.layers("alpha"):
        alpha = records.at("alpha", layer)
        alpha = alpha[..., : max(1, alpha.shape[-1] // 2)]
        peak, mass = alpha.argmax(-1), alpha.max(-1)
        for number, head in zip(*np.nonzero(mass > epsilon), strict=True):
            at = int(peak[number, head])
            row_ids = ids[int(records.rows[number])]
            entries.append((row_ids[at], at, float(mass[number, head])))
    table = pd.DataFrame(entries, columns=["id", "position", "mass"])
    grouped = table.groupby(["id", "position"], as_index=False).agg(
        heads=("mass", "size"), mass=("mass", "mean")
    )
    grouped = grouped.sort_values("heads", ascending=False, ignore_index=True).head(_MOST_TOKENS)
    rows = []
    for token, at, heads, mass in grouped.itertuples(index=False):
        text = token_text(checkpoint, int(token))
        rows.append(
            TokenRow(
                token=text,
                kind=_kind(text, int(at), found.rows.bos),
                position=int(at),
                heads=float(heads / len(records.rows)),
                mass=float(mass),
            )
        )
    return rows


def _kind(text: str, position: int, bos: bool) -> TokenKind:
    if position == 0:
        return "bos" if bos else "first"
    stripped = text.strip(" ▁Ġ")
    return "delimiter" if not any(c.isalnum() for c in stripped) else "other"


def token_text(checkpoint: Checkpoint, token: int) -> str:
    """A token as text; its id where there is no tokenizer."""
    if checkpoint.tokenizer is None:
        return f"#{token}"
    text = checkpoint.tokenizer.decode([token])
    return text if isinstance(text, str) else f"#{token}"
