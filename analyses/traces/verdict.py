"""What traces say in words."""

from typing import Any

from analyses.report.text import estimate, number, visible

LEVEL = 0.01
"""Largest p of a shift of tools, as of a locus."""


def verdict(report: dict[str, Any]) -> str:
    """The result in sentences."""
    parts = [_tools(report), _success(report), _divergence(report), _attribution(report)]
    return " ".join(part for part in parts if part)


def shifted(shift: dict[str, Any] | None) -> bool:
    """Whether the choice of tools differs by more than swapping the runs would bring about."""
    return shift is not None and shift["p"] <= LEVEL


def _tools(report: dict[str, Any]) -> str:
    shift = report["shift"]
    if shift is None:
        return ""
    numbers = (
        f"total variation {number(shift['distance'])}, 99th percentile of swapped runs "
        f"{number(shift['null_high'])}, p = {shift['p']:.3g}, n = {shift['n']} tasks"
    )
    if not shifted(shift):
        return f"At equal final success no shift of tools is shown ({numbers})."
    most = max(shift["tools"], key=lambda row: abs(row["difference"]))
    return (
        f"At equal final success the choice of tools shifts ({numbers}), most of all that of "
        f"{_tool(most['tool'])}: {estimate(most['difference'], *(most['interval'] or ()))}."
    )


def _success(report: dict[str, Any]) -> str:
    found = report["success"]
    own = f"{estimate(found['run'], *found['run_interval'])}"
    if found["reference"] is None:
        return f"The run does {own} of {found['n']} tasks right."
    return (
        f"The run does {own} of {found['n']} tasks right, the reference "
        f"{estimate(found['reference'], *found['reference_interval'])}: difference "
        f"{estimate(found['difference'], *(found['interval'] or ()))}."
    )


def _divergence(report: dict[str, Any]) -> str:
    found = report["divergence"]
    if found is None:
        return ""
    if not found["parted"]:
        return f"In none of {found['n']} tasks do the runs diverge."
    first = max(found["counts"], key=lambda row: int(row["tasks"]))
    return (
        f"They diverge in {estimate(found['share'], *found['interval'])} of {found['n']} tasks, "
        f"most often at step {first['step']} by the {first['what']} ({first['tasks']} tasks)."
    )


def _attribution(report: dict[str, Any]) -> str:
    found = report["attribution"]
    if found is None:
        return ""
    behaviour = found["behaviour"]
    what = "Failure" if behaviour["tool"] is None else f"A call of {_tool(behaviour['tool'])}"
    counts = f"{found['targets']} of {found['n']} traces"
    if found["locus"] is None:
        return f"{what} ({counts}) goes with no words of the query, a thought or an observation."
    row = next(one for one in found["loci"] if one["locus"] == found["locus"])
    return (
        f"{what} ({counts}) goes with “{visible(row['ngram'])}” in the {row['locus']}: share of "
        f"traces with it less share of others {number(row['difference'])}, p = {row['p']:.3g}, "
        f"99th percentile of shuffled traces {number(found['null_high'])}."
    )


def _tool(name: str) -> str:
    return f"‘{visible(name)}’" if name else "no tool"
