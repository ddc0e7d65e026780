"""The panels of the refusal finding, drawn from its JSON alone. Quantities: `docs/refusal.md`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analyses.refusal.figures import answers, effects
from analyses.report.charts import Series, heatmap, lines, scatter
from analyses.report.panel import Drawing, Panel
from analyses.report.text import estimate, number, token
from analyses.report.theme import ACCENT, BLUE, GREY
from interp.statistics.intervals import AUROC, AUROC_BY_GROUP, caption

_CELLS = {
    (True, True): ("harmful, refused", ACCENT, "circle"),
    (True, False): ("harmful, accepted", ACCENT, "circle-open"),
    (False, True): ("harmless, refused", BLUE, "square"),
    (False, False): ("harmless, accepted", BLUE, "square-open"),
}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """Every panel that the finding has numbers for, in reading order.

    Args:
        finding: as in `report.json` (`kind` "refusal", format version 1).
    """
    makers: list[Callable[[dict[str, Any]], Panel | None]] = [
        effects.rates,
        _separation,
        _separation_by_layer,
        _harmfulness,
        _plane,
        _refusal_separation,
        effects.selection,
        effects.dose_response,
        effects.inversion,
        effects.damage,
        _cosines,
        _geometry,
        effects.attribution,
        effects.strips,
        answers.scorers,
        answers.disagreements,
        _tokens,
        answers.transcripts,
    ]
    return [panel for maker in makers if (panel := maker(finding)) is not None]


def _separation(finding: dict[str, Any]) -> Panel:
    rows = finding["separation"]
    best = max(rows, key=lambda row: row["auroc"])
    figure = _by_place(rows, "auroc", "AUROC")
    return Panel(
        "Harmful against harmless, by layer and position",
        f"AUROC of the difference in means on {best['n']} test prompts; 0.5 is chance. Position −1 "
        f"is the last prompt token, {number(min(row['segment_position'] for row in rows))} the "
        f"last of the instruction. Under shuffled labels the best cell of such a grid stays below "
        f"{number(best['null_max'])} in 95 of 100 cases; layer l is the input of block l.",
        figure,
        csv="separation.csv",
    )


def _by_place(rows: list[dict[str, Any]], key: str, title: str) -> go.Figure:
    """A heat map of a quantity by layer and position."""
    positions = sorted({row["segment_position"] for row in rows})
    layers = sorted({row["layer"] for row in rows})
    by_cell = {(row["layer"], row["segment_position"]): row[key] for row in rows}
    grid = [[by_cell.get((layer, position)) for position in positions] for layer in layers]
    figure = heatmap(
        grid,
        {i: str(layer) for i, layer in enumerate(layers)},
        title=title,
        hover="layer %{y}: %{z:.3f}",
        x="position",
    )
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(positions))),
        ticktext=[str(position).replace("-", "−") for position in positions],
    )
    return figure


def _separation_by_layer(finding: dict[str, Any]) -> Panel:
    rows = finding["separation"]
    ends = (min(row["segment_position"] for row in rows), -1)
    series = []
    for position, name, colour, symbol in (
        (ends[0], "end of instruction", ACCENT, "circle"),
        (ends[1], "last prompt token", BLUE, "square"),
    ):
        here = sorted(
            (row for row in rows if row["segment_position"] == position),
            key=lambda row: row["layer"],
        )
        series.append(
            Series(
                name,
                [row["layer"] for row in here],
                [row["auroc"] for row in here],
                low=[row["interval"][0] for row in here],
                high=[row["interval"][1] for row in here],
                colour=colour,
                symbol=symbol,
                hover=[
                    f"layer {row['layer']}: {estimate(row['auroc'], *row['interval'])}, token "
                    f"alone {number(row['last_token_floor'])}"
                    for row in here
                ],
            )
        )
    layers = sorted({row["layer"] for row in rows})
    floor = {row["segment_position"]: row["last_token_floor"] for row in rows}[ends[0]]
    null = rows[0]["null_max"]
    series += [
        Series("shuffled labels, best of grid, 95 %", layers, [null] * len(layers), colour=GREY,
               dash="dash"),
        Series("token at end of instruction alone", layers, [floor] * len(layers), colour=ACCENT,
               dash="dot"),
    ]  # fmt: skip
    return Panel(
        "Separation by layer, with its nulls",
        f"The same with {_auroc_caption(rows[0]['interval_method'])}. What lies under "
        "the dashed line may be the best of many cells by chance; what lies under the dotted one "
        "may be read off the last token of the instruction, without any context.",
        effects.by_layer(lines(series, x="layer", y="AUROC")),
    )


def _auroc_caption(method: str) -> str:
    """What is said of intervals of AUROCs, by the `interval_method` of the report."""
    if method == "clusters":
        return caption(*AUROC_BY_GROUP, over="groups of prompts")
    return caption(*AUROC, over="prompts")


def _harmfulness(finding: dict[str, Any]) -> Panel:
    found = finding["harmfulness"]
    layers = list(range(len(found["auroc_t_inst_by_layer"])))
    series = []
    for key, name, colour, symbol in (
        ("t_inst", "at the end of the instruction", ACCENT, "circle"),
        ("t_post_inst", "at the last prompt token", BLUE, "square"),
    ):
        bounds = found[f"auroc_{key}_interval_by_layer"]
        series.append(
            Series(
                f"AUROC {name}",
                layers,
                found[f"auroc_{key}_by_layer"],
                low=[low for low, _ in bounds],
                high=[high for _, high in bounds],
                colour=colour,
                symbol=symbol,
            )
        )
    series.append(
        Series(
            "cosine with refusal",
            layers,
            found["cosine_with_refusal_by_layer"],
            colour=GREY,
            symbol="diamond",
        )
    )
    n, guard = found["n"], found["latent_guard"]
    rates = "; ".join(_rate_at(one) for one in guard["tpr_at_fpr"])
    return Panel(
        "Harmfulness apart from refusal",
        f"The direction from refused harmful and accepted harmless training prompts, over all "
        f"{n['harmful']} harmful and {n['harmless']} harmless test prompts, whatever the "
        "checkpoint does with them; and its cosine with the refusal direction of the last prompt "
        "token. "
        f"Latent Guard has AUROC {estimate(guard['auroc'], *guard['interval'])} (as published "
        f"{number(guard['paper_auroc'])}) on {guard['on']}; {rates}.",
        effects.by_layer(lines(series, x="layer", y="AUROC, cosine")),
    )


def _rate_at(one: dict[str, Any]) -> str:
    percent = f"{100 * one['fpr']:g} %"
    if one["tpr"] is None:
        return f"no TPR at {percent} FPR, for which there are too few harmless prompts"
    return f"TPR {estimate(one['tpr'], *one['interval'])} at {percent} FPR"


def _plane(finding: dict[str, Any]) -> Panel:
    found = finding["beliefs"]
    series = []
    for (harmful, refused), (name, colour, symbol) in _CELLS.items():
        here = [
            point
            for point in found["points"]
            if (point["harmful"], point["refused"]) == (harmful, refused)
        ]
        if here:
            series.append(
                Series(
                    name,
                    [point["harm"] for point in here],
                    [point["refuse"] for point in here],
                    hover=[point["label"].replace("_", " ") for point in here],
                    colour=colour,
                    symbol=symbol,
                )
            )
    means = "; ".join(
        f"{name.replace('_', ' ')} {number(one['harm'])}, {number(one['refuse'])} (n = {one['n']})"
        for name, one in found["means"].items()
    )
    return Panel(
        "What it believes and what it does",
        "Each mark is a test prompt: across, how much nearer its states are to harmful than to "
        "harmless prompts at the end of the instruction; upwards, to refused than to accepted ones "
        "at the last prompt token (Zhao et al., Eq. 3 and 4; mean over the outputs of all blocks). "
        f"Means: {means}. Shown: {found['shown']} of {found['n']}.",
        scatter(series, x="belief: harmful", y="belief: refuse", level=0.0),
    )


def _refusal_separation(finding: dict[str, Any]) -> Panel | None:
    rows = [row for row in finding["refusal_separation"] if row["auroc"] is not None]
    if not rows:
        return None
    return Panel(
        "Refused against accepted, by layer and position",
        "AUROC of the refusal direction of each place within harmful and within harmless test "
        "prompts, averaged, so that telling harmful from harmless does not count. Under shuffled "
        f"labels, within each of the two, the best cell stays below {number(rows[0]['null_max'])} "
        "in 95 of 100 cases.",
        _by_place(rows, "auroc", "AUROC"),
        csv="refusal_separation.csv",
    )


def _cosines(finding: dict[str, Any]) -> Panel:
    grid = finding["cosine_map"]["refusal"]
    figure = heatmap(
        grid,
        {i: str(i) for i in range(len(grid))},
        title="cosine",
        hover="layers %{y} and %{x}: %{z:.3f}",
        x="layer",
    )
    return Panel(
        "Does the refusal direction turn from layer to layer?",
        "Cosines between the refusal directions of all layers at the last prompt token; an empty "
        "row is a layer without any difference there, such as the embedding of a template token.",
        figure,
    )


def _geometry(finding: dict[str, Any]) -> Panel:
    names = {
        "layer": "layer",
        "segment_position": "position",
        "norm": "norm",
        "relative_norm": "norm / residual",
        "split_half_cosine": "split-half cosine",
        "massive_share": "share in largest channel",
        "mean_cosine": "cosine with mean residual",
    }
    frame = pd.DataFrame(finding["geometry"])[list(names)].rename(columns=names)
    return Panel(
        "How long and how stable the directions are",
        "Harmful less harmless. The split-half cosine compares the directions of two random halves "
        "of the training prompts (median of 50). A direction that lies along the largest channel "
        "or the mean residual may be a difference in norm.",
        table=frame,
        csv="geometry.csv",
    )


def _tokens(finding: dict[str, Any]) -> Panel | None:
    found = finding["refusal_tokens"]
    if found is None:
        return None
    frame = pd.DataFrame(
        {
            "token": [token(text) for text in found["texts"]],
            "id": [str(one) for one in found["ids"]],
            "when refused": found["refused"],
            "when accepted": found["complied"],
        }
    )
    return Panel(
        "First tokens of refusals",
        "Mean probability of the token right behind the prompt, over training prompts that are "
        "refused and that are accepted. Log-odds of refusal are of these tokens together.",
        table=frame,
    )


DRAWING = Drawing("Harmfulness and refusal", panels)
