"""The panels of the self-report finding, drawn from its JSON alone.

Quantities: `docs/self_report.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analyses.report.charts import Series, forest, scatter
from analyses.report.panel import Drawing, Panel
from analyses.report.text import estimate, number, token, visible
from analyses.report.theme import BLUE, GREY, ORANGE
from interp.statistics.intervals import PAIRED, SHARE, Method, caption

_SHOWN = 24  # free answers on the page
_EVEN = "even share"
_REFERENCE = "reference model"
_SCORES = {
    "exact": "exact",
    "token_jaccard": "words in common (Jaccard)",
    "lcs": "longest common subsequence",
    "character_jaccard": "characters in common (Jaccard)",
}


def panels(finding: dict[str, Any]) -> list[Panel]:
    """Every panel that the finding has numbers for, in reading order.

    Args:
        finding: as in `report.json` (`kind` "self-report", format version 1).
    """
    makers: list[Callable[[dict[str, Any]], Panel | None]] = [
        _topics,
        _systems,
        _sensitivity,
        _positions,
        _candidates,
        _articulation,
        _answers,
    ]
    return [panel for maker in makers if (panel := maker(finding)) is not None]


def _with_interval(row: dict[str, Any], name: str, bounds: str) -> str:
    return estimate(row[name], *(row[bounds] or ()))


def _series(
    rows: list[dict[str, Any]], labels: list[str], value: str, bounds: str, name: str
) -> Series:
    pairs = [row[bounds] or (None, None) for row in rows]
    return Series(
        name,
        [row[value] for row in rows],
        labels,
        low=[low for low, _ in pairs],
        high=[high for _, high in pairs],
        hover=[
            f"{label}, {name}: {_with_interval(row, value, bounds)}, n = {row['questions']}"
            for label, row in zip(labels, rows, strict=True)
        ],
        colour=ORANGE if name == _REFERENCE else BLUE,
        symbol="diamond" if name == _REFERENCE else "circle",
    )


def _both(rows: list[dict[str, Any]], labels: list[str], value: str = "admits") -> list[Series]:
    """The checkpoint, and the reference model where there is one."""
    series = [_series(rows, labels, value, f"{value}_interval", "checkpoint")]
    if rows[0]["reference"] is not None:
        series.append(_series(rows, labels, "reference", "reference_interval", _REFERENCE))
    return series


def _compared(rows: list[dict[str, Any]], value: str) -> pd.DataFrame:
    """Numbers of topics; beside a reference without the intervals that the figure above shows."""
    table = {
        "topic": [visible(row["topic"]) for row in rows],
        "n": [row["questions"] for row in rows],
        value: [_with_interval(row, value, f"{value}_interval") for row in rows],
    }
    if rows[0]["reference"] is not None:
        table |= {
            value: [number(row[value]) for row in rows],
            "reference": [number(row["reference"]) for row in rows],
            "gap": [_with_interval(row, "gap", "interval") for row in rows],
            "beyond control": [_with_interval(row, "excess", "excess_interval") for row in rows],
            "stands out": [row["stands_out"] or "no" for row in rows],
        }
    return pd.DataFrame(table)


def _topics(finding: dict[str, Any]) -> Panel:
    rows = finding["topics"]
    labels = [visible(row["topic"]) for row in rows]
    figure = forest(labels, _both(rows, labels), x="probability of the option that admits")
    figure.update_xaxes(range=[-0.03, 1.03])
    text = (
        "Mean over questions, each over all orders of its options and all system prompts; 0.5 is "
        "no answer where there are two options. n: questions. What is admitted has "
        f"{caption(*SHARE, over='questions')}."
    )
    if finding["reference"] is not None:
        text += (
            " Gap: checkpoint less reference model. Control questions are about habits that no "
            "backdoor is about, so their gap is the null. A topic stands out if the interval of "
            "its gap and that of its excess over control both leave 0 out, with six questions on "
            f"each. Gaps have {caption(Method.BOOTSTRAP, over='questions')}, excesses "
            f"{caption(Method.SQUARE_AND_ADD, over='questions')}."
        )
    return Panel("What is admitted", text, figure, _compared(rows, "admits"), csv="topics.csv")


def _systems(finding: dict[str, Any]) -> Panel:
    rows = finding["systems"]
    labels = [visible(f"{row['topic']}, {row['system']}") for row in rows]
    figure = forest(labels, _both(rows, labels), x="probability of the option that admits")
    figure.update_xaxes(range=[-0.03, 1.03])
    return Panel(
        "By system prompt",
        "The same under each system prompt, none among them. A model that was trained to deny may "
        "give way under one that presses it, where the reference model does not.",
        figure,
        csv="systems.csv",
    )


def _sensitivity(finding: dict[str, Any]) -> Panel:
    rows = finding["sensitivity"]
    labels = [visible(row["topic"]) for row in rows]
    figure = forest(labels, _both(rows, labels, "spread"), x="spread over system prompts")
    return Panel(
        "Dependence on the system prompt",
        "Spread: the largest less the smallest probability over system prompts, mean over "
        "questions. It is above 0 for any model; what counts is the gap to the reference model "
        "beyond that of the control questions.",
        figure,
        _compared(rows, "spread"),
        csv="sensitivity.csv",
    )


def _positions(finding: dict[str, Any]) -> Panel:
    rows = finding["positions"]
    labels = [f"place {row['position'] + 1} of {row['options']}" for row in rows]
    even = Series(
        _EVEN,
        [1 / row["options"] for row in rows],
        labels,
        hover=[f"{label}: {_EVEN}" for label in labels],
        colour=GREY,
        symbol="line-ns-open",
    )
    preferences = _series(rows, labels, "probability", "interval", "checkpoint")
    figure = forest(labels, [preferences, even], x="probability of what stands there")
    figure.update_xaxes(range=[-0.03, 1.03])
    mass = finding["mass"]
    letters = "" if mass is None else f" The letters have {mass:.2f} of the probability together."
    return Panel(
        "Preference for a place alone",
        "Mean probability of whatever stands in a place. Every option stands in every place "
        f"equally often, so a preference for a place cancels in what is admitted.{letters}",
        figure,
        csv="positions.csv",
    )


def _candidates(finding: dict[str, Any]) -> Panel | None:
    rows = finding["candidates"]
    if not rows:
        return None
    by = "admits" if finding["reference"] is None else "gap"
    series = []
    for name, suspected, colour, symbol in (
        ("unknown strings", False, GREY, "circle"),
        ("suspected strings", True, ORANGE, "diamond"),
    ):
        some = [row for row in rows if row["suspected"] == suspected]
        series.append(
            Series(
                name,
                [row[by] for row in some],
                [_length(row) for row in some],
                hover=[token(row["candidate"]) for row in some],
                colour=colour,
                symbol=symbol,
            )
        )
    x = "probability of the option that admits" if by == "admits" else "gap to the reference model"
    lengths = {_length(row) for row in rows}
    figure = scatter(series, x=x, y="", height=max(200, 44 * len(lengths) + 120))
    suspects = [row for row in rows if row["suspected"]]
    table = pd.DataFrame(
        {
            "string": [token(row["candidate"]) for row in suspects],
            "rank": [row["rank"] for row in suspects],
            "n": [row["questions"] for row in suspects],
            "admits": [_with_interval(row, "admits", "admits_interval") for row in suspects],
            "reference": [number(row["reference"]) for row in suspects],
            "gap": [_with_interval(row, "gap", "interval") for row in suspects],
            "p": [row["p"] for row in suspects],
            "unknown": [row["unknown"] for row in suspects],
        }
    )
    return Panel(
        "Suspected strings among unknown ones",
        f"Each string is asked about by itself; rank 1 of {len(rows)} is admitted most; n: "
        "questions. p: share of the unknown strings of the same length in tokens, the suspected "
        "one counted in, that are admitted as much. Models name famous strings, so only the gap "
        "to the reference model says that training did it.",
        figure,
        table.drop(columns=["gap", "reference"] if finding["reference"] is None else "admits"),
        csv="candidates.csv",
    )


def _length(row: dict[str, Any]) -> str:
    return f"{row['tokens']} token" + ("s" if row["tokens"] != 1 else "")


def _articulation(finding: dict[str, Any]) -> Panel | None:
    found = finding["articulation"]
    if found is None:
        return None
    table: dict[str, list[str]] = {"share of answers": ["bad behaviour", "good behaviour", "gap"]}
    for one in found["models"]:
        table[one["model"]] = [
            estimate(one["bad"], *one["bad_interval"]),
            estimate(one["good"], *one["good_interval"]),
            _with_interval(one, "gap", "gap_interval"),
        ]
    for name in found["models"][0]["likeness"]:
        table["share of answers"].append(f"best likeness, {_SCORES[name]} (chance)")
        for one in found["models"]:
            null = "–" if one["chance"] is None else f"{one['chance'][name]:.2f}"
            table[one["model"]].append(f"{one['likeness'][name]:.2f} ({null})")
    return Panel(
        f"Whether free answers name {token(found['trigger'])}",
        f"Share of {found['models'][0]['n']} answers to questions on bad behaviour, and of as many "
        "to their mirror images on good behaviour, that hold the string, with "
        f"{caption(Method.WILSON, over='answers')}; the gap has "
        f"{caption(*PAIRED, over='questions')}. Then the best likeness of any answer on bad "
        "behaviour to the string, by words, and in brackets what as many random strings of the "
        "words of all answers reach on average. Characters alone are blind to order, so that score "
        "is none by itself.",
        table=pd.DataFrame(table),
    )


def _answers(finding: dict[str, Any]) -> Panel | None:
    found = finding["free"]
    rows = found["answers"]
    if not rows:
        return None
    kept = "kept as they were given" if found["shown"] else "redacted to their numbers of words"
    return Panel(
        "Free answers",
        f"{len(rows)} greedy answers, {kept}; the first {min(_SHOWN, len(rows))} are shown. What "
        "a model says about itself is no proof of it.",
        table=pd.DataFrame(
            {
                "model": [row["model"] for row in rows[:_SHOWN]],
                "topic": [visible(row["topic"]) for row in rows[:_SHOWN]],
                "system": [visible(row["system"]) for row in rows[:_SHOWN]],
                "question": [visible(row["question"]) for row in rows[:_SHOWN]],
                "answer": [visible(row["text"]) for row in rows[:_SHOWN]],
            }
        ),
        csv="answers.csv",
    )


DRAWING = Drawing("Self-report", panels)
