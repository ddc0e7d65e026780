"""One to three sentences from the numbers of a cliff report."""

from typing import Any

from analyses.report.text import estimate, number

CLIFF_AT_LEAST = 0.1
"""Depth, in probe probability, that the lower end of the interval must reach."""


def has_cliff(report: dict[str, Any]) -> bool:
    """Whether the probe falls and the behaviour falls with it.

    The depth's interval lies above `CLIFF_AT_LEAST`, and refusal behind the natural end lies below
    the refusal of every thought that was cut in its second half, intervals apart.
    """
    interval = (report["cliff"] or {}).get("interval")
    fall = behaviour_fall(report)
    return bool(interval and interval[0] > CLIFF_AT_LEAST and fall)


def behaviour_fall(report: dict[str, Any]) -> bool | None:
    """Whether refusal falls at the natural end; None where it cannot be told."""
    natural, late = report["natural"].get("interval"), _late(report)
    if natural is None or not late:
        return None
    return bool(natural[1] < min(cut["interval"][0] for cut in late))


def verdict(report: dict[str, Any]) -> str:
    """The result in one to three sentences."""
    return " ".join([_fall(report), _heads(report)])


def _fall(report: dict[str, Any]) -> str:
    cliff, natural = report["cliff"], report["natural"]
    late = _late(report)
    depth = estimate(cliff["depth"], *(cliff["interval"] or (None, None)))
    closed = f"{_percent(natural['rate'])} of {natural['n']} harmful requests are refused"
    cut = ""
    if late:
        rates = [point["rate"] for point in late]
        low, high = _percent(min(rates)), _percent(max(rates))
        cut = (
            f", and {low if low == high else f'{low} to {high}'} when it is cut in its second half"
        )
    if has_cliff(report):
        at = -(cliff["from_end"] or -1)
        where = (
            "at the last token of the closing marker"
            if at == 1
            else f"{at} tokens before the end of thought and closing marker"
        )
        return (
            f"Refusal falls off a cliff: once the thought has closed, {closed}{cut}. "
            f"The probe falls by {depth} {where}."
        )
    return (
        f"No refusal cliff: once the thought has closed, {closed}{cut}; the probe falls by {depth}."
    )


def _heads(report: dict[str, Any]) -> str:
    heads = report["suppression_heads"]
    tested = [row for row in report["heads"] if row["ablated_refusal"] is not None]
    if not heads:
        best = max((row["ablated_refusal"] for row in tested), default=None)
        return (
            f"No head suppresses refusal by itself: silencing each of {len(tested)} gives "
            f"{_percent(best)} at most, within what other heads of its layer do."
        )
    rates = {(row["layer"], row["head"]): row["ablated_refusal"] for row in tested}
    chosen = [(head["layer"], head["head"]) for head in heads[:5]]
    spoken = ", ".join(
        f"L{layer} H{head} ({_percent(rates[layer, head])})" for layer, head in chosen
    )
    more = f" and {len(heads) - 5} more" if len(heads) > 5 else ""
    return f"Heads whose silencing restores refusal beyond the null of their layer: {spoken}{more}."


def _late(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Cuts in the second half of the thought, the whole one left out."""
    cuts = [point for point in report["forced_stop"] if point["n"]]
    if not cuts:
        return []
    most = max(point["tokens"] for point in cuts)
    return [point for point in cuts if most / 2 <= point["tokens"] < most]


def _percent(share: float | None) -> str:
    return number(None if share is None else 100 * share) + " %"
