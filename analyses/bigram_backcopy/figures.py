"""The panels of the Bigram-Backcopy finding, rebuilt from its JSON alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analyses.report.charts import Series, lines
from analyses.report.panel import Drawing, Panel
from analyses.report.theme import MARKS

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_ORDER = ("plain", "gated", "open", "relu", "head", "three", "sgd")

# Title, quantity, axis, logarithmic, caption. Each is drawn for the variants that have it.
_CURVES = (
    (
        "Back-copy risk",
        "backcopy_risk",
        "nats at triggers",
        True,
        "Cross-entropy at trigger positions, where the next token is certain (oracle: 0).",
    ),
    (
        "Bigram risk",
        "bigram_excess",
        "nats over the oracle",
        True,
        "Cross-entropy at dormant positions in excess of the true law's entropy.",
    ),
    (
        "Attention on <bos>",
        "bos_attention",
        "mean weight",
        False,
        "Mean attention from dormant queries to the first token, before any gate.",
    ),
    (
        "Logit gap",
        "logit_gap",
        "Δlogit",
        False,
        "Attention logit of <bos> minus the mean logit of the other keys that a dormant query "
        "sees, without itself.",
    ),
    (
        "Value norm of <bos>",
        "value_norm",
        "‖W_O v‖",
        True,
        "Norm of the value state of <bos> through each head's output slice, mean over heads.",
    ),
    (
        "Value drain",
        "value_ratio",
        "<bos> / median of the others",
        True,
        "The same norm in relation to the median of the other tokens; far below 1 is a drain.",
    ),
    (
        "Residual peak",
        "residual_peak",
        "norm over the mean of the others",
        False,
        "Norm of the residual stream at <bos> after the layer minus the mean of the other "
        "positions.",
    ),
    (
        "Gate at dormant positions",
        "gate_dormant",
        "mean gate",
        True,
        "Mean of the output gate at dormant queries: where it shuts, no sink is needed.",
    ),
    (
        "Gate-weighted sink mass",
        "gated_sink_mass",
        "mean of gate × weight",
        True,
        "Attention on <bos> weighted by the gate: what a sink still delivers.",
    ),
)

_COLUMNS = {
    "label": "attention",
    "seed": "seed",
    "bos_attention": "on <bos>",
    "value_ratio": "value ratio",
    "gate_dormant": "gate",
    "gated_sink_mass": "gate-weighted",
    "backcopy_risk": "back-copy risk",
    "bigram_excess": "bigram excess",
    "zeroed_backcopy_risk": "back-copy, heads zeroed",
    "zeroed_bigram_change": "Δ bigram, heads zeroed",
    "as_owed": "as owed",
    "cpu_seconds": "CPU s",
}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """The summary table and one figure for each quantity, from the finding's JSON.

    Args:
        finding: with `tables` → `dynamics` and `summary` as lists of records.
    """
    table = pd.DataFrame(finding["tables"]["dynamics"])
    summary = pd.DataFrame(finding["tables"]["summary"])
    labels = dict(zip(summary["variant"], summary["label"], strict=True))
    seeds = sorted(int(seed) for seed in summary["seed"].unique())
    which = (
        f"One model for each variant, seed {seeds[0]}; no interval."
        if len(seeds) == 1
        else f"Median over {len(seeds)} seeds; the band is their range, not an interval."
    )
    drawn = [_summary_panel(summary)]
    for title, quantity, axis, log, caption in _CURVES:
        rows = table[table["quantity"] == quantity]
        if len(rows):
            figure = _curves(rows, labels, axis, log)
            drawn.append(Panel(title, f"{caption} {which}", figure=figure, csv="dynamics.csv"))
    return drawn


def _summary_panel(summary: pd.DataFrame) -> Panel:
    shown = [name for name in _COLUMNS if name in summary and summary[name].notna().any()]
    table = summary[shown].rename(columns=_COLUMNS)
    text = (
        f"{len(summary)} models after training: means over heads and over queries from a sixth of "
        "the sequence on, of the layer whose zeroing harms the copy most. Risks in nats."
    )
    return Panel("Trained models", text, table=table, csv="summary.csv")


def _curves(rows: pd.DataFrame, labels: dict[str, str], axis: str, log: bool) -> go.Figure:
    series = []
    for place, name in enumerate(_ORDER):
        by_step = rows.loc[rows["variant"] == name].groupby("step")["value"]
        if name not in labels or not len(by_step):
            continue
        median, low, high = by_step.median(), by_step.min(), by_step.max()
        several = bool((low < high).any())
        series.append(
            Series(
                labels[name],
                x=[max(step, 0.5) for step in median.index.tolist()],
                y=median.tolist(),
                low=low.tolist() if several else None,
                high=high.tolist() if several else None,
                hover=[
                    f"{labels[name]}, step {step}: {value:.3g}" for step, value in median.items()
                ],
                colour=MARKS[place % len(MARKS)],
                symbol=_SYMBOLS[place],
                dash="dot" if place >= len(MARKS) else None,
            )
        )
    figure = lines(series, x="optimiser steps (0 drawn at ½)", y=axis, log=log)
    ticks = [0.5, 1, 10, 100, 1000, 10_000]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=["0", *map(str, ticks[1:])])
    return figure


DRAWING = Drawing("Bigram-Backcopy", panels)
