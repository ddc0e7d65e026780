"""The panels of the interaction finding, drawn from its JSON alone.

Quantities: `docs/self_report.md`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.interaction.verdict import CELLS
from analyses.report.charts import Series, forest, scatter
from analyses.report.panel import Drawing, Panel
from analyses.report.text import estimate, token, visible
from analyses.report.theme import BLUE, GREY, ORANGE
from interp.statistics.intervals import PAIRED, SHARE, Method, caption

_SHOWN = 10  # strings in the table, those with the largest |I|
_PLACES = {"first": "instead of the first", "second": "instead of the second"}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """The cells, and I beside that of others in the place of a switch, in this order.

    Args:
        finding: as in `report.json` (`kind` "interaction", format version 1).
    """
    found = [_cells(finding)]
    if finding["null"]:
        found.append(_null(finding))
    return found


def _cells(finding: dict[str, Any]) -> Panel:
    cells = finding["cells"]
    labels = [CELLS[cell["cell"]] for cell in cells]
    bounds = [cell["interval"] or (None, None) for cell in cells]
    shown = [estimate(cell["mean"], *(cell["interval"] or ())) for cell in cells]
    measure = finding["measure"]
    series = Series(
        "f",
        [cell["mean"] for cell in cells],
        labels,
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
        hover=[f"{label}: {text}" for label, text in zip(labels, shown, strict=True)],
        colour=BLUE,
    )
    first, second = finding["switches"]
    (_, of_shares), (_, of_differences) = SHARE, PAIRED
    words = "".join(
        f" {name}: {token(measure[key]) if key == 'text' else _listed(measure[key])}."
        for key, name in (("text", "Text"), ("tokens", "Tokens that open refusals"))
        if key in measure
    )
    return Panel(
        "f with neither, either and both",
        f"f is the mean over {finding['prompts']} prompts, in {measure['unit']}; first is "
        f"{_switch(first)}, second {_switch(second)}.{words} I = both − first − second + neither = "
        f"{estimate(finding['value'], *(finding['interval'] or ()))}. Intervals are "
        f"{caption(Method.BOOTSTRAP, over='prompts')}; where f is 0 or 1 for every prompt, those "
        f"without width are replaced, of f by {caption(of_shares, over='prompts')}, of I by "
        f"{caption(of_differences, over='prompts')}.",
        forest(labels, [series], x=measure["unit"]),
        pd.DataFrame({"on": labels, "f": shown, "n": finding["prompts"]}),
        csv="cells.csv",
    )


def _switch(switch: dict[str, Any]) -> str:
    if switch["at"] == "adapter":
        return f"{visible(switch['name'])} (adapter, sha256 {switch['sha256'][:12]}…)"
    if switch["tokens"] is None:
        return visible(switch["name"])
    length = f"{switch['tokens']} token" + ("s" if switch["tokens"] != 1 else "")
    return f"{token(switch['name'])} ({switch['at']}, {length})"


def _listed(texts: list[str]) -> str:
    return ", ".join(token(text) for text in texts)


def _null(finding: dict[str, Any]) -> Panel:
    rows = finding["null"]
    labels = [_PLACES[row["instead_of"]] for row in rows]
    others = Series(
        "others",
        [row["value"] for row in rows],
        labels,
        hover=[token(row["distractor"]) for row in rows],
        colour=GREY,
    )
    mine = Series(
        "the two switches",
        [finding["value"]],
        ["the two switches"],
        hover=["the two switches"],
        colour=ORANGE,
        symbol="diamond",
    )
    figure = scatter([mine, others], x=f"I, {finding['measure']['unit']}", y="", height=230)
    order = [name for name in _PLACES.values() if name in labels]
    figure.update_yaxes(
        categoryorder="array", categoryarray=["the two switches", *order], autorange="reversed"
    )
    largest = sorted(rows, key=lambda row: -abs(row["value"]))[:_SHOWN]
    return Panel(
        "I beside others in their places",
        "Each string or adapter stands once in the place of a switch while the other switch stays; "
        f"it is not suspected. p = {finding['p']:.3g}: of the two places the larger share of them, "
        "the measured I counted in, whose |I| is as large, for both switches must be needed. The "
        f"{len(largest)} largest of {len(rows)} are listed.",
        figure,
        pd.DataFrame(
            {
                "instead": [token(row["distractor"]) for row in largest],
                "place": [_PLACES[row["instead_of"]] for row in largest],
                "I": [row["value"] for row in largest],
            }
        ),
        csv="null.csv",
    )


DRAWING = Drawing("Interaction of switches", panels)
