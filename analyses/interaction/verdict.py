"""What an interaction says in words, and when it says anything at all."""

from typing import Any, Literal

from analyses.interaction.report import Interval
from analyses.report.text import estimate, number, visible

LEVEL = 0.05
"""Largest p of an interaction that stands out."""

CELLS = {"00": "neither", "10": "first alone", "01": "second alone", "11": "both"}


def stands_out(interval: Interval | None, p: float | None) -> Literal["together", "apart"] | None:
    """`together` or `apart` if I is no chance: its interval leaves 0 out, and p ≤ 0.05.

    `together`: both switches do more than the sum of each alone; `apart`: they do less.

    Args:
        interval: of I; None with one prompt.
        p: of I; None where nothing stood in the place of a switch.
    """
    if interval is None or p is None or p > LEVEL:
        return None
    if interval[0] > 0:
        return "together"
    return "apart" if interval[1] < 0 else None


def verdict(report: dict[str, Any]) -> str:
    """The result in sentences."""
    names = " and ".join(_named(switch) for switch in report["switches"])
    value = (
        f"I = {estimate(report['value'], *(report['interval'] or ()))} "
        f"({report['measure']['unit']}; n = {report['prompts']} prompts)"
    )
    cells = ", ".join(
        f"{CELLS[cell['cell']]} {estimate(cell['mean'], *(cell['interval'] or ()))}"
        for cell in report["cells"]
    )
    return f"{_claim(report, names, value)} Mean f: {cells}."


def _claim(report: dict[str, Any], names: str, value: str) -> str:
    if report["p"] is None:
        return f"Nothing is claimed, for nothing stood in the place of {names}: {value}."
    null = f"{_null(report, 'first')}; {_null(report, 'second')}"
    if report["stands_out"] == "together":
        return f"{names} work together, more than the sum of each alone: {value}; {null}."
    if report["stands_out"] == "apart":
        return f"{names} take from each other, less than the sum of each alone: {value}; {null}."
    said = f"No interaction of {names} is shown: {value}; {null}."
    one = _needed(report)
    if one is None:
        return said
    first, second = (_named(switch) for switch in report["switches"])
    needed, other = (first, second) if one == "first" else (second, first)
    return (
        f"{needed} works together with {other}, and with other words in the place of that too, so "
        f"that only the {one} switch is one: {value}; {null}."
    )


def _null(report: dict[str, Any], place: str) -> str:
    sizes = [abs(row["value"]) for row in report["null"] if row["instead_of"] == place]
    if not sizes:
        return f"nothing stood in the place of the {place}"
    return (
        f"p = {report[f'p_{place}']:.3g} among {len(sizes)} others in the place of the {place} "
        f"(largest |I| {number(max(sizes))})"
    )


def _needed(report: dict[str, Any]) -> str | None:
    """The switch that no other string stands in for, where some do for the other; else None."""
    bounds, chances = report["interval"], {"first": report["p_first"], "second": report["p_second"]}
    if bounds is None or bounds[0] <= 0 <= bounds[1] or None in chances.values():
        return None
    for one, other in (("first", "second"), ("second", "first")):
        strings = sum(row["instead_of"] == other for row in report["null"])
        if chances[one] <= LEVEL < chances[other] and chances[other] * (1 + strings) > 1.5:
            return one
    return None


def _named(switch: dict[str, Any]) -> str:
    where = {
        "front": " in front",
        "end": " at the end",
        "system": " in the system message",
        "adapter": " (an adapter)",
    }
    return f"“{visible(switch['name'])}”{where.get(switch['at'] or '', '')}"
