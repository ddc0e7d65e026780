"""From per-row records to the tables of the finding."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analyses.sinks.causal import CausalEffects
from analyses.sinks.measure import Measurements
from interp.capture.recorder import EMBED, FINAL
from interp.capture.residual import MASSIVE_ABSOLUTE, MASSIVE_RATIO
from interp.checkpoint import Checkpoint
from interp.model.anatomy import Anatomy
from interp.statistics.intervals import bootstrap

Floats = NDArray[np.floating]
# Guo et al.'s detector needs two thresholds that their code leaves to the caller; these are ours.
ROW_ENTROPY_BELOW, COLUMN_ENTROPY_ABOVE = 0.3, 0.9

# Column of the head table, recorder, quantity; `kv` marks quantities of a KV head.
_HEAD_MEANS = (
    ("sink_mass", "first_key", "sink_mass", False),
    ("gated_sink_mass", "gates", "gated_sink_mass", False),
    ("sink_output_share", "outputs", "sink_share", False),
    ("value_norm_first", "values", "first", False),
    ("value_norm_rest", "values", "rest", False),
    ("raw_value_first", "values", "raw_first", True),
    ("raw_value_rest", "values", "raw_rest", True),
    ("key_norm_first", "keys", "first", True),
    ("key_norm_rest", "keys", "rest", True),
    ("entropy", "rows", "entropy", False),
    ("column_entropy", "columns", "column_entropy", False),
    ("participation", "rows", "participation", False),
    ("logit_gap", "logit_gap", "logit_gap", False),
    ("learned_sink", "learned_sink", "learned_sink", False),
    ("gate_mean", "gates", "mean", False),
    ("gate_below_0_01", "gates", "below_0_01", False),
    ("gate_below_0_1", "gates", "below_0_1", False),
    ("output_norm", "outputs", "before", False),
    ("output_norm_gated", "outputs", "after", False),
)


def head_table(
    anatomy: Anatomy, found: Measurements, epsilon: float, effects: CausalEffects | None, seed: int
) -> pd.DataFrame:
    """One row for each head of each softmax layer; means over sequences."""
    frames = [
        _layer_heads(anatomy, found, layer, epsilon, seed) for layer in anatomy.softmax_layers
    ]
    table = pd.concat(frames, ignore_index=True)
    table["value_ratio"] = table["value_norm_first"] / table["value_norm_rest"]
    table["raw_value_ratio"] = table.pop("raw_value_first") / table.pop("raw_value_rest")
    known = table["entropy"].notna() & table["column_entropy"].notna()
    narrow = (table["entropy"] < ROW_ENTROPY_BELOW) & (
        table["column_entropy"] > COLUMN_ENTROPY_ABOVE
    )
    table["entropy_sink"] = narrow.astype(object).where(known, None)
    return table if effects is None else _with_effects(table, effects, seed)


def _layer_heads(
    anatomy: Anatomy, found: Measurements, layer: int, epsilon: float, seed: int
) -> pd.DataFrame:
    here = anatomy.layers[layer]
    groups = here.heads // here.kv_heads
    alpha = found.records["first_key"].at("alpha", layer)
    low, high = bootstrap(alpha, seed)
    columns: dict[str, Any] = {
        "layer": layer,
        "head": np.arange(here.heads),
        "kv_head": np.arange(here.heads) // groups,
        "attention": here.attention,
        "alpha_first": alpha.mean(0, dtype=np.float64),
        "alpha_first_low": low,
        "alpha_first_high": high,
        "sink_percent": 100.0 * (alpha > epsilon).mean(0),
    }
    for column, recorder, quantity, by_kv in _HEAD_MEANS:
        values = _mean(found, recorder, quantity, layer)
        if values is None:
            columns[column] = np.full(here.heads, np.nan)
        else:
            columns[column] = np.repeat(values, groups) if by_kv else values
    return pd.DataFrame(columns)


def _mean(found: Measurements, recorder: str, quantity: str, layer: int) -> Floats | None:
    """Mean over rows, in float64; rows where the quantity is undefined do not count."""
    records = found.records.get(recorder)
    if records is None or quantity not in records or layer not in records.layers(quantity):
        return None
    values = records.at(quantity, layer).astype(np.float64)
    defined = np.isfinite(values)
    counts = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


_EFFECT_COLUMNS = {
    "ablation": "ablation_delta_loss",
    "move_to_sink": "move_to_sink_delta_loss",
    "random": "random_delta_loss",
}


def _with_effects(table: pd.DataFrame, effects: CausalEffects, seed: int) -> pd.DataFrame:
    place = {layer: number for number, layer in enumerate(effects.layers)}
    index = ([place[layer] for layer in table["layer"]], table["head"].to_numpy())
    for edit, column in _EFFECT_COLUMNS.items():
        delta = effects.delta[edit][:, index[0], index[1]]
        low, high = bootstrap(delta, seed)
        table[column] = delta.mean(0)
        table[f"{column}_low"], table[f"{column}_high"] = low, high
    return table


def layer_table(anatomy: Anatomy, found: Measurements, epsilon: float) -> pd.DataFrame:
    """One row for each layer: `resid_post`, and means over the layer's heads."""
    rows = []
    for layer, here in enumerate(anatomy.layers):
        entry: dict[str, Any] = {"layer": layer, "attention": here.attention}
        entry |= residual_entry(found, layer)
        alpha = gate = None
        if here.attention != "linear":
            alpha = found.records["first_key"].at("alpha", layer)
            gate = _mean(found, "gates", "mean", layer)
        entry["first_token_attention"] = np.nan if alpha is None else float(alpha.mean())
        entry["gate_mean"] = np.nan if gate is None else float(gate.mean())
        entry["sink_percent"] = np.nan if alpha is None else 100.0 * float((alpha > epsilon).mean())
        rows.append(entry)
    return pd.DataFrame(rows)


def residual_entry(found: Measurements, layer: int) -> dict[str, float]:
    """Norms of one hidden state; `EMBED` and `FINAL` are layers here too."""
    records = found.records["residual"]
    first = float(records.at("first", layer).mean(dtype=np.float64))
    rest = float(records.at("rest", layer).mean(dtype=np.float64))
    return {
        "residual_norm_first": first,
        "residual_norm_rest": rest,
        "residual_peak": first - rest,
        "residual_ratio": first / rest if rest > 0 else float("nan"),
        "max_abs": float(records.at("max_abs", layer).max()),
        "median_abs": found.medians[layer],
    }


def outer_entries(found: Measurements) -> dict[str, dict[str, float]]:
    """The embedding and the final norm."""
    return {"embedding": residual_entry(found, EMBED), "final_norm": residual_entry(found, FINAL)}


def massive_table(checkpoint: Checkpoint, found: Measurements) -> pd.DataFrame:
    """Sun et al.'s massive activations, one row for each coordinate and token.

    `value` and `median` are means over the sequences that show the coordinate, `sequences` counts
    them.
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
    columns = ["layer", "position", "token", "dim", "value", "median"]
    table = pd.DataFrame(entries, columns=columns)
    grouped = table.groupby(["layer", "position", "token", "dim"], as_index=False).agg(
        value=("value", "mean"), median=("median", "mean"), sequences=("value", "size")
    )
    grouped["token"] = [token_text(checkpoint, token) for token in grouped["token"]]
    order = ["sequences", "layer", "position", "dim"]
    return grouped.sort_values(order, ascending=[False, True, True, True], ignore_index=True)


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


def position_table(anatomy: Anatomy, found: Measurements, seed: int) -> pd.DataFrame:
    """Column importance α_k by key position, averaged over heads that see every position."""
    if "columns" not in found:
        return pd.DataFrame(columns=["position", "mass", "low", "high", "uniform"])
    records = found.records["columns"]
    length = records.at("alpha", records.layers("alpha")[0]).shape[-1]
    seeing = [
        layer
        for layer in records.layers("alpha")
        if (window := anatomy.layers[layer].window) is None or window >= length
    ]
    layers = seeing or records.layers("alpha")
    by_row = np.mean([records.at("alpha", layer).mean(1) for layer in layers], axis=0)
    low, high = bootstrap(by_row, seed) if np.isfinite(by_row).all() else (np.nan, np.nan)
    table = pd.DataFrame({"position": np.arange(length), "mass": np.nanmean(by_row, axis=0)})
    table["low"], table["high"] = low, high
    table["uniform"] = uniform_columns(length)
    return table


def uniform_columns(length: int) -> Floats:
    """α_k of uniform causal attention: (H_T − H_{k−1}) / (T − k + 1), k 1-based."""
    inverse = 1.0 / np.arange(1, length + 1)
    tail = inverse[::-1].cumsum()[::-1]
    return tail / np.arange(length, 0, -1)


def sink_token_table(checkpoint: Checkpoint, found: Measurements, epsilon: float) -> pd.DataFrame:
    """Which tokens are sinks: where a head's column importance peaks above ε.

    Only the first half of the positions counts, because the last columns average few queries.
    `heads` is the mean number of heads in a sequence whose peak lies on that token, `mass` their
    mean α there.
    """
    columns = ["token", "kind", "position", "heads", "mass"]
    if "columns" not in found:
        return pd.DataFrame(columns=columns)
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
    grouped["heads"] = grouped["heads"] / len(records.rows)
    bos = found.rows.bos
    grouped["token"] = [token_text(checkpoint, token) for token in grouped["id"]]
    grouped["kind"] = [
        _kind(text, at, bos) for text, at in zip(grouped["token"], grouped["position"], strict=True)
    ]
    ordered = grouped.sort_values("heads", ascending=False, ignore_index=True)
    return ordered[columns].head(50)


def _kind(text: str, position: int, bos: bool) -> str:
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
