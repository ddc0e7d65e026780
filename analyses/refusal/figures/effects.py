"""The panels of the refusal finding about causes: edits, doses, verdicts, damage."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analyses.report.charts import Series, bars, forest, heatmap, lines
from analyses.report.panel import Panel
from analyses.report.text import estimate, interval, number, token
from analyses.report.theme import ACCENT, BLUE, GREY
from interp.statistics.intervals import Method, caption

SETS = {
    "harmful": ("harmful", ACCENT, "circle"),
    "harmless": ("harmless", BLUE, "square"),
    "over_refusal": ("alarming but harmless", GREY, "diamond"),
}
EDITS = {
    "base": "as it is",
    "ablated": "ablated everywhere",
    "ablated_affine": "set to accepted mean",
    "added": "added at last token",
    "added_all": "added at all tokens",
}


def rates(finding: dict[str, Any]) -> Panel:
    """Refusal rates under every edit."""
    series = []
    names = [edit for edit in EDITS if (finding["rates"]["harmful"] or {}).get(edit)]
    for key, (name, colour, symbol) in SETS.items():
        by_edit = finding["rates"].get(key)
        if not by_edit:
            continue
        found = [by_edit[edit] for edit in names]
        series.append(
            Series(
                name,
                [one["rate"] for one in found],
                [],
                low=[one["interval"][0] for one in found],
                high=[one["interval"][1] for one in found],
                colour=colour,
                symbol=symbol,
                hover=[
                    f"{name}, {EDITS[edit]}: {estimate(one['rate'], *one['interval'])}, "
                    f"n = {one['n']}"
                    for edit, one in zip(names, found, strict=True)
                ],
            )
        )
    figure = forest([EDITS[edit] for edit in names], series, x="share refused")
    figure.update_xaxes(range=[-0.03, 1.03])
    scorer = finding["scorers"]["counted"]
    return Panel(
        "Refusals with the direction ablated and added",
        f"Share of test prompts that are refused whole, with "
        f"{caption(Method.WILSON, over='prompts')} (scorer: {scorer}). {_random(finding)}"
        "Further columns: answers that are partly a refusal, empty or looping, and the share whose "
        "first token is one of refusals.",
        figure,
        _rate_table(finding),
        csv="rates.csv",
    )


def _random(finding: dict[str, Any]) -> str:
    random = finding.get("random_rates") or []
    if not random:
        return ""
    ranges = []
    for kind in ("isotropic", "covariance"):
        here = [one for one in random if one["direction"] == kind]
        ablated = [one["rate"] for one in here if one["edit"] == "ablated"]
        added = [one["rate"] for one in here if one["edit"] == "added"]
        most = max(abs(one["cosine"]) for one in here)
        ranges.append(
            f"{kind} (cosine with the selected one up to {number(most)}), {_span(ablated)} of "
            f"harmful prompts are refused with one ablated and {_span(added)} of harmless ones "
            "with one added"
        )
    each = len(random) // 4  # of two kinds, ablated and added
    return f"Random directions of equal length, {each} of a kind: {'; '.join(ranges)}. "


def _span(values: list[float]) -> str:
    """The least and the most, or the one value that all have."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _rate_table(finding: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for key, (name, _, _) in SETS.items():
        for edit, shown in EDITS.items():
            one = (finding["rates"].get(key) or {}).get(edit)
            if one is None:
                continue
            row = {
                "prompts": name,
                "edit": shown,
                "refused": one["rate"],
                "95 %": interval(one["interval"]),
                "n": one["n"],
                "first token": one["first_token"],
                "partial": one["partial"],
                "empty": one["empty"],
                "looping": one["looping"],
            }
            if one.get("compliant"):
                row["complied to the letter"] = one["compliant"]["rate"]
            rows.append(row)
    return pd.DataFrame(rows)


def selection(finding: dict[str, Any]) -> Panel | None:
    """Every candidate with its scores."""
    if not finding["selection"]:
        return None
    names = {
        "layer": "layer",
        "position": "position",
        "bypass": "bypass",
        "induce": "induce",
        "kl": "KL, nats",
        "discarded": "discarded by",
        "chosen_share": "chosen in bootstrap",
        "near_tie": "near tie",
    }
    frame = pd.DataFrame(finding["selection"])[list(names)].rename(columns=names)
    frame["near tie"] = frame["near tie"].map({True: "yes", False: ""})
    direction = finding["direction"]
    chosen = (
        "No candidate is left."
        if direction["layer"] is None
        else f"Chosen: layer {direction['layer']}, position {direction['position']}."
    )
    return Panel(
        "Selection of the refusal direction",
        "Arditi et al. (2024): the lowest log-odds of refusal on harmful validation prompts with "
        "the candidate ablated (bypass), among those of the first 80 % of the layers that induce "
        "refusal on harmless ones when added (induce ≥ 0) and change the next token of harmless "
        f"ones by at most 0.1 nats when ablated. {direction['survivors']} of "
        f"{direction['candidates']} survive. {chosen}",
        table=frame,
        csv="candidates.csv",
    )


def by_layer(figure: go.Figure) -> go.Figure:
    """Ticks at whole layers only."""
    last = max((max(trace.x) for trace in figure.data if len(trace.x)), default=0)
    return figure.update_xaxes(tick0=0, dtick=max(1, round(last / 12)))


def dose_response(finding: dict[str, Any]) -> Panel | None:
    """Log-odds of refusal by strength."""
    rows = finding.get("dose_response") or []
    if not rows:
        return None
    series = []
    for side, (name, colour, symbol) in SETS.items():
        here = [row for row in rows if row["side"] == side]
        if not here:
            continue
        x = [row["strength"] for row in here]
        series.append(
            Series(
                f"{name} prompts",
                x,
                [row["log_odds"] for row in here],
                low=[row["interval"][0] if row["interval"] else None for row in here],
                high=[row["interval"][1] if row["interval"] else None for row in here],
                colour=colour,
                symbol=symbol,
                hover=[
                    f"{name}, strength {row['strength']:g}: {number(row['log_odds'])}; refusal "
                    f"likelier than not in {number(row['likely_refusal'])} of {row['n']}"
                    for row in here
                ],
            )
        )
        for kind, dash in (("isotropic", "dot"), ("covariance", "dash")):
            known = [row for row in here if kind in row["random"]]
            series.append(
                Series(
                    f"random ({kind}) on {name}",
                    [row["strength"] for row in known],
                    [row["random"][kind][side == "harmless"] for row in known],
                    colour=colour,
                    dash=dash,
                )
            )
    return Panel(
        "Dose and response",
        "Mean log-odds that the answer begins with a refusal token, by how much of the direction "
        "is added at the last prompt token; 1 is the raw difference in means, negative strengths "
        "take it away. Without marks: the furthest that ten random directions of equal length get "
        "(most on harmless, least on harmful prompts); those from the covariance of states hold "
        "a part of the direction itself wherever it is a large part of what varies.",
        lines(series, x="strength", y="log-odds of refusal"),
        csv="dose_response.csv",
    )


def inversion(finding: dict[str, Any]) -> Panel | None:
    """Does a direction turn the verdict, or the behaviour?"""
    rows = finding.get("inversion") or []
    if not any(row["layer"] is not None for row in rows):
        return None
    looks = {
        ("harmfulness", False): ("harmless + harmfulness", ACCENT, "circle", None),
        ("refusal", False): ("harmless + refusal", BLUE, "square", None),
        ("harmfulness", True): ("harmful − harmfulness", ACCENT, "circle-open", "dot"),
        ("refusal", True): ("harmful − refusal", BLUE, "square-open", "dot"),
    }
    series = []
    for (direction, harmful), (name, colour, symbol, dash) in looks.items():
        here = [
            row
            for row in rows
            if (row["direction"], row["harmful"]) == (direction, harmful) and row["n"]
        ]
        if here:
            series.append(
                Series(
                    name,
                    [row["layer"] for row in here],
                    [row["rate"] for row in here],
                    low=[row["interval"][0] for row in here],
                    high=[row["interval"][1] for row in here],
                    colour=colour,
                    symbol=symbol,
                    dash=dash,
                )
            )
    added = finding.get("harm_added") or []
    if added:
        series.append(
            Series(
                "refused, harmless + harmfulness",
                [row["layer"] for row in added],
                [row["rate"] for row in added],
                colour=GREY,
                symbol="diamond",
            )
        )
    plain = "; ".join(
        f"{'harmful' if row['harmful'] else 'harmless'} prompts are called harmful in "
        f"{estimate(row['rate'], *row['interval'])} (n = {row['n']})"
        for row in rows
        if row["layer"] is None and row["n"]
    )
    return Panel(
        "Does a direction change the belief or the behaviour?",
        "Reply inversion (Zhao et al.): share of requests that the checkpoint calls harmful when "
        "asked, with a direction added to harmless or taken from harmful requests while they are "
        f"read. Without an edit {plain}. Grey: share of harmless requests that are refused with "
        "the harmfulness direction added at the end of the instruction.",
        by_layer(lines(series, x="layer", y="share")),
        csv="inversion.csv",
    )


def damage(finding: dict[str, Any]) -> Panel | None:
    """What ablation costs elsewhere."""
    rows = [
        {
            "measure": f"loss on {row['text']}, nats per token",
            "edit": EDITS[row["edit"]],
            "value": row["loss"],
            "increase": row["increase"],
            "95 % of increase": interval(row["interval"]),
            "n": row["n"],
        }
        for row in finding.get("utility") or []
    ]
    for edit, one in (finding.get("first_divergence") or {}).items():
        rows.append(
            {
                "measure": f"KL at the first divergent token ({one['diverged']} diverge), nats",
                "edit": EDITS[edit],
                "value": one["kl"],
                "increase": one["kl"],
                "95 % of increase": interval(one["interval"]),
                "n": one["n"],
            }
        )
    if not rows:
        return None
    return Panel(
        "What ablation costs on harmless prompts",
        "Loss on the checkpoint's own answers to harmless prompts and on benign text, and the KL "
        "divergence at the first token at which its answers differ from the unedited ones (0 where "
        "they never do).",
        table=pd.DataFrame(rows),
    )


def attribution(finding: dict[str, Any]) -> Panel | None:
    """Which parts write the direction."""
    rows = finding.get("attribution") or []
    if not rows:
        return None
    top = sorted(rows, key=lambda row: -abs(row["difference"]))[:20]
    labels = [row["part"] for row in top]
    hover = [
        f"{row['part']}: {estimate(row['difference'], *(row['interval'] or (None, None)))}"
        for row in top
    ]
    series = [
        Series("harmful less harmless", [row["difference"] for row in top], labels, hover=hover)
    ]
    return Panel(
        "Which heads and MLPs write the direction",
        "What each part writes along the selected direction at its token, as the mean over harmful "
        f"less the mean over harmless test prompts, in units of the residual; the {len(top)} "
        f"largest of {len(rows)}. The sum over all parts is the difference at the direction's "
        "place.",
        bars(labels, series, x="projection"),
    )


def strips(finding: dict[str, Any]) -> Panel | None:
    """Where along a prompt and its answer the direction is present."""
    rows = finding.get("strips") or []
    if not rows:
        return None
    widest = max(len(row["values"]) for row in rows)
    grid = [[*row["values"], *[None] * (widest - len(row["values"]))] for row in rows]
    words = [
        [[token(text)] for text in row["tokens"]] + [[""]] * (widest - len(row["tokens"]))
        for row in rows
    ]
    figure: go.Figure = heatmap(
        grid,
        {i: row["name"] for i, row in enumerate(rows)},
        title="projection",
        hover="%{y}, token %{x} %{customdata[0]}: %{z:.3f}",
        extra=words,
        x="token",
        y="",
        top=None,
    )
    return Panel(
        "The direction along prompts and answers",
        "Projection of the residual stream on the selected direction, token by token, at its "
        "layer. Point at a cell for its token.",
        figure,
    )
