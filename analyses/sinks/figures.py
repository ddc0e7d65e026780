"""The panels of the sink finding, drawn from its JSON alone.

A panel whose numbers are absent (no gates, no learned sinks, causal part skipped, one domain) is
left out, and one sentence at the end says why. Quantities: `docs/quantities.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analyses.report.charts import Series, bars, heatmap, lines
from analyses.report.panel import Drawing, Panel
from analyses.report.text import escape, estimate, interval, number, setting, token
from analyses.report.theme import ACCENT, BLUE, GREY
from analyses.sinks import figures_mechanism as mechanism
from analyses.sinks.rows import (
    bounds,
    column,
    first_of,
    grid,
    has,
    layer_labels,
    sample,
    short_name,
)
from interp.statistics.intervals import SHARE, Method, caption

_SHOWN_HEADS = 256
_SHOWN_ROWS = 200
_SHOWN_TOKENS = 12
_TOKEN_WIDTH = 14
_MOST_HOVERS = 4096  # heads beyond which a cell shows its value only

HEAD_COLUMNS = {
    "attention": "kind",
    "alpha_first": "α₁",
    "sink_percent": "> ε, %",
    "sink_mass": "sink mass",
    "gated_sink_mass": "gated mass",
    "sink_output_share": "output share",
    "learned_sink": "learned sink",
    "gate_mean": "gate",
    "value_ratio": "value ratio",
    "key_norm_first": "key norm, first",
    "key_norm_rest": "key norm, rest",
    "entropy": "entropy",
    "participation": "participation",
    "logit_gap": "logit gap",
    "output_norm": "output norm",
    "ablation_delta_loss": "Δloss, zeroed",
    "move_to_sink_delta_loss": "Δloss, to sink",
    "random_delta_loss": "Δloss, random",
}

LAYER_COLUMNS = {
    "layer": "layer",
    "attention": "kind",
    "sink_percent": "sink rate, %",
    "first_token_attention": "F-Attn",
    "gate_mean": "gate",
    "residual_norm_first": "‖h‖ first",
    "residual_norm_rest": "‖h‖ rest",
    "residual_ratio": "ratio",
    "residual_peak": "peak",
    "max_abs": "max |x|",
    "median_abs": "median |x|",
}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """Every panel that the finding has numbers for, in reading order.

    Args:
        finding: the sink finding as in `report.json` (`kind` "sinks", format version 1).
    """
    makers: list[Callable[[dict[str, Any]], Panel | None]] = [
        _key_numbers,
        _first_token,
        _gated,
        _thresholds,
        _positions,
        _tokens,
        mechanism.residual,
        mechanism.extremes,
        _massive_table,
        mechanism.values,
        mechanism.keys,
        mechanism.learned,
        mechanism.gates,
        mechanism.entropy,
        mechanism.causal,
        mechanism.causal_against_sink,
        mechanism.domains,
        mechanism.domain_scatter,
        mechanism.domain_heads,
        _heads,
        _layers,
        _absent,
    ]
    return [panel for maker in makers if (panel := maker(finding)) is not None]


def figures(finding: dict[str, Any]) -> dict[str, go.Figure]:
    """The figures of `panels` by a short name, each with its title, for a notebook."""
    named = {}
    for panel in panels(finding):
        if panel.figure is not None:
            name = re.sub(r"\W+", "_", panel.title.lower()).strip("_")
            named[name] = panel.figure.update_layout(
                title={"text": panel.title, "font": {"size": 15}, "y": 0.98, "yanchor": "top"},
                margin={"t": 86},
            )
    return named


def _key_numbers(finding: dict[str, Any]) -> Panel:
    rate = finding.get("sink_rate") or {}
    causal = finding.get("causal") or {}
    final = finding.get("final_norm") or {}
    first = (finding.get("first_token_attention"), finding.get("first_token_attention_interval"))
    m_act = (finding.get("m_act"), finding.get("m_act_interval"))
    epsilon = setting(rate.get("epsilon"))
    rows = [
        (f"Sink rate at ε = {epsilon}, %", rate.get("percent"), rate.get("interval")),
        ("Attention on the first token (F-Attn)", *first),
        ("α₁ under uniform attention", rate.get("uniform_alpha"), None),
        ("Largest |activation|, mean of layers (M-Act)", *m_act),
        ("Largest |activation| after the final norm", final.get("max_abs"), None),
        ("Loss of the causal sequences, nats per token", causal.get("baseline_loss"),
         causal.get("interval")),
    ]  # fmt: skip
    table = pd.DataFrame(
        [(name, number(value), interval(pair)) for name, value, pair in rows if value is not None],
        columns=["quantity", "value", "95 % interval"],
    )
    text = (
        f"The finding in {len(table)} numbers over {sample(finding)}; intervals of the sink rate "
        f"are {caption(*SHARE, over='sequences')}; the others are "
        f"{caption(Method.BOOTSTRAP, over='sequences')}. Sink rates at different lengths "
        "cannot be compared."
    )
    return Panel("Key numbers", text, table=table)


def _first_token(finding: dict[str, Any]) -> Panel | None:
    if not has(finding.get("heads"), "alpha_first"):
        return None
    rate = finding.get("sink_rate") or {}
    epsilon = setting(rate.get("epsilon"))
    table, labels = grid(finding), layer_labels(finding)
    hover, extra = "layer %{y}, head %{x}<br>α₁ %{z:.3~g}", None
    if len(finding["heads"]) <= _MOST_HOVERS:
        hover += f" [%{{customdata[0]}}]<br>above {epsilon} in %{{customdata[1]}} % of sequences"
        extra = [
            [[interval(bounds(c, "alpha_first")), number(c.get("sink_percent"))] for c in line]
            for line in table
        ]
    values = [column(line, "alpha_first") for line in table]
    figure = heatmap(values, labels, title="α₁", hover=hover, extra=extra)
    text = (
        "α₁, the attention that the first token receives, averaged over all queries (its own "
        f"included) of {sample(finding)}; {caption(Method.BOOTSTRAP, over='sequences')} are "
        f"{'in the table' if extra is None else 'under the pointer'}. Uniform attention would give "
        f"{number(rate.get('uniform_alpha'))}."
    )
    if any("sliding" in label for label in labels.values()):
        text += (
            " In layers marked sliding, late queries cannot see the first token once the window "
            "has passed it, so a low value there is not the absence of a sink."
        )
    if any("linear" in label for label in labels.values()):
        text += " Layers marked linear have no softmax attention, hence no value."
    return Panel("Attention on the first token, by head", text, figure, csv="heads.csv")


def _gated(finding: dict[str, Any]) -> Panel | None:
    """Raw and gate-weighted mass on one scale: raw heads left, gated heads right."""
    heads = finding.get("heads") or []
    if not has(heads, "gated_sink_mass"):
        return None

    table = grid(finding)
    raw = [column(line, "sink_mass") for line in table]
    gated = [column(line, "gated_sink_mass") for line in table]
    keys = ("sink_mass", "gated_sink_mass", "sink_output_share", "gate_mean")
    hover, extra = "layer %{y}<br>mass %{z:.3~g}", None
    if len(heads) <= _MOST_HOVERS:
        hover = (
            "layer %{y}, head %{customdata[0]}<br>sink mass %{customdata[1]}<br>gate-weighted "
            "%{customdata[2]}<br>share of the output %{customdata[3]}<br>gate %{customdata[4]}"
        )
        cells = [
            [
                [f"{head}", *(number(cell.get(key)) for key in keys)]
                for head, cell in enumerate(line)
            ]
            for line in table
        ]
        extra = [[*line, [""] * 5, *line] for line in cells]
    figure = heatmap(
        [[*left, None, *right] for left, right in zip(raw, gated, strict=True)],
        layer_labels(finding),
        title="mass",
        hover=hover,
        extra=extra,
        x="head (left: raw, right: gate-weighted)",
    )
    width = len(raw[0])
    ticks = list(range(0, width, max(1, width // 8)))
    figure.update_xaxes(
        tickmode="array",
        tickvals=[*ticks, *(tick + width + 1 for tick in ticks)],
        ticktext=[str(tick) for tick in (*ticks, *ticks)],
    )
    text = (
        "Mean attention on the first token from the queries after it, before the gate (left) and "
        "with every query weighted by its mean gate (right), on one scale; "
        f"{sample(finding)}, point estimates. A gate that is small everywhere lowers the right "
        "side without telling sink from content; the share of the head's output cancels that."
    )
    return Panel("Sink mass before and after the gate", text, figure, csv="heads.csv")


def _thresholds(finding: dict[str, Any]) -> Panel | None:
    rate = finding.get("sink_rate") or {}
    rows = rate.get("by_epsilon") or []
    if not rows:
        return None
    steps, uniform = [row["epsilon"] for row in rows], rate.get("uniform_alpha")
    lows = [(row.get("interval") or (None, None))[0] for row in rows]
    highs = [(row.get("interval") or (None, None))[1] for row in rows]
    series = [Series("measured", steps, column(rows, "percent"), lows, highs, [
        f"ε = {setting(row['epsilon'])}: {number(row.get('percent'))} % "
        f"[{interval(row.get('interval'))}]" for row in rows])]  # fmt: skip
    if uniform is not None:
        ends = [0.0, uniform, uniform, max(uniform, *steps)]
        series.append(Series("uniform attention", ends, [100, 100, 0, 0], colour=GREY, dash="dot"))
    figure = lines(series, x="threshold ε", y="sink rate, %")
    figure.update_yaxes(range=[-3, 103])
    if rate.get("epsilon") is not None:
        figure.add_vline(x=rate["epsilon"], line={"color": ACCENT, "width": 1})
    text = (
        f"Share of (sequence, layer, head) triples whose α₁ exceeds ε over {sample(finding)}, with "
        f"{caption(*SHARE, over='sequences')}; the orange line is the ε of the verdict, the dotted "
        "step is what uniform attention would give."
    )
    return Panel("Sink rate against its threshold", text, figure)


def _positions(finding: dict[str, Any]) -> Panel | None:
    rows = finding.get("positions") or []
    if not rows:
        return None
    places = [row["position"] for row in rows]
    lows = column(rows, "low") if has(rows, "low") else None
    highs = column(rows, "high") if has(rows, "high") else None
    hover = [
        f"position {row['position']}: {estimate(row.get('mass'), row.get('low'), row.get('high'))}"
        for row in rows
    ]
    series = [Series("measured", places, column(rows, "mass"), lows, highs, hover)]
    if has(rows, "uniform"):
        baseline = column(rows, "uniform")
        series.append(Series("uniform attention", places, baseline, colour=GREY, dash="dot"))
    text = (
        "Mean attention that a key position receives from the queries that see it, over all heads "
        f"of {sample(finding)}, with {caption(Method.BOOTSTRAP, over='sequences')}; the dotted "
        "curve is uniform attention. The scale is logarithmic; late keys are seen by few queries, "
        "each of which has itself among them."
    )
    return Panel(
        "Attention by key position",
        text,
        lines(series, x="key position", y="attention received", log=True),
        csv="positions.csv",
    )


def _tokens(finding: dict[str, Any]) -> Panel | None:
    rows = finding.get("sink_tokens") or []
    if not rows:
        return None
    shown = sorted(rows, key=lambda row: -(row.get("heads") or 0.0))[:_SHOWN_TOKENS]
    labels = [f"{escape(_brief(token(row['token'])))} at {row['position']}" for row in shown]
    colours = {"bos": ACCENT, "first": ACCENT, "delimiter": BLUE, "other": GREY}
    series = []
    for kind, colour in colours.items():
        chosen = [place for place, row in enumerate(shown) if row.get("kind") == kind]
        if chosen:
            heads = column([shown[place] for place in chosen], "heads")
            names = [labels[place] for place in chosen]
            hover = [
                f"{labels[place]}: {number(shown[place].get('heads'))} heads per sequence, "
                f"attention {number(shown[place].get('mass'))}"
                for place in chosen
            ]
            series.append(Series(kind, heads, names, hover=hover, colour=colour))
    text = (
        f"{first_of(len(shown), len(rows), 'tokens')} that act as a sink, with their position: how "
        "many heads have the peak of their attention there and above ε, on average over "
        f"{sample(finding)}, point estimates. Colour tells the beginning-of-sequence or first "
        "token from delimiters and other tokens."
    )
    return Panel(
        "Which token is the sink",
        text,
        bars(labels, series, x="heads per sequence"),
        csv="sink_tokens.csv",
    )


def _brief(text: str) -> str:
    return text if len(text) <= _TOKEN_WIDTH else f"{text[: _TOKEN_WIDTH - 1]}…"


def _massive_table(finding: dict[str, Any]) -> Panel | None:
    rows = finding.get("massive_activations") or []
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: -abs(row.get("value") or 0.0))
    table = pd.DataFrame([{**row, "token": token(row["token"])} for row in rows[:_SHOWN_ROWS]])
    text = (
        f"{first_of(len(table), len(rows), 'massive activations')}, largest first: |x| above 100 "
        "and at least 1000 times the median |x| of the layer's output (Sun et al. 2024), by "
        f"position, token and dimension, over {sample(finding)}; maxima, so without interval."
    )
    return Panel("Massive activations", text, table=table, csv="massive_activations.csv")


def _heads(finding: dict[str, Any]) -> Panel | None:
    heads = finding.get("heads") or []
    if not heads:
        return None
    ranked = sorted(heads, key=lambda row: -(row.get("sink_mass") or 0.0))[:_SHOWN_HEADS]
    table = _table(ranked, HEAD_COLUMNS)
    table.insert(0, "head", [short_name(row) for row in ranked])
    for key in ("alpha_first", "ablation_delta_loss", "move_to_sink_delta_loss"):
        if HEAD_COLUMNS[key] in table and has(ranked, f"{key}_low"):
            table[HEAD_COLUMNS[key]] = [estimate(row.get(key), *bounds(row, key)) for row in ranked]
    text = (
        f"{first_of(len(ranked), len(heads), 'heads')}, sorted by sink mass (a click on a heading "
        f"sorts by it); means over {sample(finding)}, "
        f"{caption(Method.BOOTSTRAP, over='sequences')} in brackets"
        f"{', Δloss in nats per token' if has(heads, 'ablation_delta_loss') else ''}."
    )
    return Panel("All heads", text, table=table, csv="heads.csv")


def _layers(finding: dict[str, Any]) -> Panel | None:
    rows = finding.get("layers") or []
    if not rows:
        return None
    text = (
        f"{len(rows)} layers over {sample(finding)}: norms are means, max |x| is the maximum over "
        "all sequences, both of the block's output before any final norm; point estimates."
    )
    return Panel("All layers", text, table=_table(rows, LAYER_COLUMNS), csv="layers.csv")


def _table(rows: list[dict[str, Any]], names: dict[str, str]) -> pd.DataFrame:
    """The columns of `names` that hold anything, under their printed names."""
    kept = {key: name for key, name in names.items() if any(r.get(key) is not None for r in rows)}
    return pd.DataFrame({name: [row.get(key) for row in rows] for key, name in kept.items()})


def _absent(finding: dict[str, Any]) -> Panel | None:
    """One sentence for every part that this model or this run has no numbers for."""
    heads = finding.get("heads") or []
    reasons = []
    if not heads:
        reasons.append("No layer has softmax attention, so there are no heads to show.")
    if heads and not has(heads, "gated_sink_mass"):
        reasons.append("The model has no output gate, so no gate-weighted mass is shown.")
    if heads and not has(heads, "learned_sink"):
        reasons.append("The model has no learned sink logits.")
    if not has(heads, "ablation_delta_loss"):
        reasons.append("The causal panel was skipped: no head was ablated.")
    if len(finding.get("domains") or []) < 2:
        reasons.append("Only one corpus was given, so heads cannot be compared across domains.")
    if not finding.get("massive_activations"):
        reasons.append(
            "No activation passed the thresholds of Sun et al. (|x| above 100 and 1000 times the "
            "layer's median), so there is no table of massive activations."
        )
    return Panel("What is not shown", " ".join(reasons)) if reasons else None


DRAWING = Drawing("Attention sinks", panels)
