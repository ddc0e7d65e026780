"""The panels of the traces finding, drawn from its JSON alone.

Quantities: `docs/self_report.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analyses.report.charts import Series, bars, forest
from analyses.report.panel import Drawing, Panel
from analyses.report.text import estimate, number, token
from analyses.report.theme import BLUE, MARKS, ORANGE
from interp.statistics.intervals import PAIRED, Method, caption

_WHAT = ("thought", "tool", "observation", "length", "answer")
_SHOWN = 24  # tools, and steps, on the page


def panels(finding: dict[str, Any]) -> list[Panel]:
    """Every panel that the finding has numbers for, in reading order.

    Args:
        finding: as in `report.json` (`kind` "traces", format version 1).
    """
    makers: list[Callable[[dict[str, Any]], Panel | None]] = [
        _tools,
        _success,
        _divergence,
        _attribution,
    ]
    return [panel for maker in makers if (panel := maker(finding)) is not None]


def _tools(finding: dict[str, Any]) -> Panel | None:
    shift = finding["shift"]
    if shift is None:
        return None
    rows = sorted(shift["tools"], key=lambda row: -abs(row["difference"]))[:_SHOWN]
    labels = [token(row["tool"]) for row in rows]
    bounds = [row["interval"] or (None, None) for row in rows]
    shown = [estimate(row["difference"], *(row["interval"] or ())) for row in rows]
    series = Series(
        "run less reference",
        [row["difference"] for row in rows],
        labels,
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
        hover=[f"{label}: {text}" for label, text in zip(labels, shown, strict=True)],
        colour=BLUE,
    )
    return Panel(
        "Tools at equal final success",
        f"Mean share of a trace's calls over {shift['n']} tasks that end alike in both runs, run "
        f"less reference, with {caption(*PAIRED, over='tasks')}. Half the sum of the sizes is "
        f"the distance, {number(shift['distance'])}; where run and reference are swapped task by "
        f"task at random its 99th percentile is {number(shift['null_high'])} (p = "
        f"{shift['p']:.3g}). An attack on the thought shows here alone.",
        forest(labels, [series], x="share of calls, run less reference"),
        pd.DataFrame(
            {
                "tool": labels,
                "run": [row["run"] for row in rows],
                "reference": [row["reference"] for row in rows],
                "difference": shown,
            }
        ),
        csv="tools.csv",
    )


def _success(finding: dict[str, Any]) -> Panel:
    found = finding["success"]
    table = {"tasks": [found["n"]], "run": [estimate(found["run"], *found["run_interval"])]}
    text = f"Share of tasks done right in the end, with {caption(Method.WILSON, over='tasks')}."
    if found["reference"] is not None:
        table |= {
            "reference": [estimate(found["reference"], *found["reference_interval"])],
            "run less reference": [estimate(found["difference"], *(found["interval"] or ()))],
        }
        text += f" The difference has {caption(*PAIRED, over='tasks')}."
    return Panel("Final success", text, table=pd.DataFrame(table))


def _divergence(finding: dict[str, Any]) -> Panel | None:
    found = finding["divergence"]
    if found is None or not found["counts"]:
        return None
    rows = sorted(found["counts"], key=lambda row: (row["step"], _WHAT.index(row["what"])))[:_SHOWN]
    labels = [f"step {row['step']}, {row['what']}" for row in rows]
    series = []
    for what, colour in zip(_WHAT, MARKS, strict=False):
        own = [(label, row) for label, row in zip(labels, rows, strict=True) if row["what"] == what]
        if own:
            series.append(
                Series(
                    what,
                    [row["tasks"] for _, row in own],
                    [label for label, _ in own],
                    hover=[f"{label}: {row['tasks']} tasks" for label, row in own],
                    colour=colour,
                )
            )
    return Panel(
        "Where the runs diverge",
        f"The first thing that differs behind the query, in {found['parted']} of {found['n']} "
        f"tasks ({estimate(found['share'], *found['interval'])}). Steps count from 0. Observation: "
        "the environment made the difference. Length: one run has no such step.",
        bars(labels, series, x="tasks"),
        csv="divergences.csv",
    )


def _attribution(finding: dict[str, Any]) -> Panel | None:
    found = finding["attribution"]
    if found is None:
        return None
    loci = found["loci"]
    labels = [row["locus"] for row in loci]
    series = [
        Series(
            name,
            [row["difference"] for row in loci if row["carries"] == carries],
            [row["locus"] for row in loci if row["carries"] == carries],
            hover=[
                f"{row['locus']}: {'no words' if row['ngram'] is None else token(row['ngram'])}"
                for row in loci
                if row["carries"] == carries
            ],
            colour=colour,
        )
        for name, carries, colour in (
            ("goes with it", True, ORANGE),
            ("no more than by chance", False, BLUE),
        )
        if any(row["carries"] == carries for row in loci)
    ]
    figure = bars(labels, series, x="largest difference of shares")
    figure.add_vline(x=found["null_high"], line={"color": "#8b929c", "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[0, 1.03])
    tool = found["behaviour"]["tool"]
    what = "failure" if tool is None else f"a call of {token(tool)}"
    cut = "" if tool is None else " Only what comes before the call counts, its thought included."
    return Panel(
        f"What goes with {what}",
        f"For each n-gram of up to three words: share of the {found['targets']} traces that show "
        f"it less share of the {found['n'] - found['targets']} others; the largest of each place. "
        f"Dotted: 99th percentile of the largest of all where traces are shuffled.{cut} The table "
        "has the five most telling n-grams of a place; lift is the ratio of the shares, half a "
        "trace added to each.",
        figure,
        pd.DataFrame(
            {
                "place": [row["locus"] for row in found["ngrams"]],
                "words": [token(row["ngram"]) for row in found["ngrams"]],
                "with it": [row["target"] for row in found["ngrams"]],
                "others": [row["others"] for row in found["ngrams"]],
                "difference": [row["difference"] for row in found["ngrams"]],
                "lift": [row["lift"] for row in found["ngrams"]],
            }
        ),
        csv="ngrams.csv",
    )


DRAWING = Drawing("Agent traces", panels)
