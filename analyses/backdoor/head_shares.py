"""What a backdoor report says of the heads that carry a trigger's effect."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.backdoor.report import HeadPatchingSection, NamedTogether, PatchedHeadRow
from analyses.report.charts import Series, forest
from analyses.report.panel import Panel
from analyses.report.text import estimate, number, token
from analyses.report.theme import ACCENT, BLUE
from analyses.shared.reports import NotMeasured
from analyses.shared.tables import rows_of
from interp.statistics.intervals import Method, caption
from probes.backdoors.detectors.detectors import Readings
from probes.backdoors.heads.head_patching import LEAST_SHARE, Together

_SHOWN = 16  # heads of the figure; all stand in the table
_WHERE = {"last": "the last prompt token", "all": "every token"}


def table(readings: Readings) -> pd.DataFrame:
    """A row a head, those that carry most first; empty where none was swapped."""
    if readings.patching is None or readings.patching.heads.empty:
        return pd.DataFrame()
    heads = readings.patching.heads
    most = heads[["removed", "restored"]].max(axis=1)
    return heads.loc[most.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def section(readings: Readings) -> HeadPatchingSection | NotMeasured:
    """The part `head_patching` of the report."""
    found = readings.patching
    if found is None:
        return NotMeasured(
            "the string brings no behaviour about that its control strings do not, or the heads "
            "could not be swapped; see the caveats"
        )
    together = found.together
    return HeadPatchingSection(
        text=readings.candidate.text,
        placement=readings.placement,
        where=found.where,
        effect=found.effect,
        interval=found.interval,
        effect_null_high=found.effect_null_high,
        found=found.found,
        requests=found.requests,
        strings=found.strings,
        named=tuple(f"{layer}.{head}" for layer, head in found.named),
        together=None if together is None else _named_together(together),
        heads=rows_of(table(readings).head(_SHOWN), PatchedHeadRow),
    )


def _named_together(found: Together) -> NamedTogether:
    return NamedTogether(
        removed=found.removed,
        removed_interval=found.removed_interval,
        restored=found.restored,
        restored_interval=found.restored_interval,
        rate=found.rate,
        rate_interval=found.rate_interval,
        rate_removed=found.rate_removed,
        rate_removed_interval=found.rate_removed_interval,
        rate_restored=found.rate_restored,
        rate_restored_interval=found.rate_restored_interval,
    )


def panel(finding: dict[str, Any]) -> Panel | None:
    """Shares of single heads beside their null, and what the named ones do together."""
    found = finding["head_patching"]
    if found is None:
        return None
    title = "Which heads carry it?"
    effect = f"{estimate(found['effect'], *found['interval'])} nats"
    if not found["found"]:
        return Panel(
            title,
            f"The effect of {token(found['text'])} over inert strings is {effect}; an inert string "
            f"in its place reaches {number(found['effect_null_high'])}, so there is nothing to "
            "share out among heads.",
        )
    rows = found["heads"]
    labels = [f"{row['layer']}.{row['head']}" for row in rows]
    figure = forest(
        labels,
        [
            _series(rows, labels, "removed", ACCENT, "diamond"),
            _series(rows, labels, "restored", BLUE, "circle"),
        ],
        x="share of the effect",
    )
    for side, colour in (("removed", ACCENT), ("restored", BLUE)):
        null = {"color": colour, "width": 1.5, "dash": "dash"}
        figure.add_vline(x=rows[0][f"{side}_null_high"], line=null, opacity=0.7)
    return Panel(
        title,
        f"Each head's output at {_WHERE[found['where']]} (layer.head) is swapped between runs with "
        f"{token(found['text'])} and with an inert string at its place. Removed: share of the "
        f"effect ({effect}) that is gone when the head is taken from the inert run; restored: that "
        f"comes with the head into the inert run; over {found['requests']} requests, with "
        f"{caption(Method.BOOTSTRAP, over='requests')}. Dashed: the most that any head "
        f"moves with any of {found['strings']} inert strings in the trigger's place. "
        f"{_named(found)}",
        figure,
        _together(found),
        csv="patched_heads.csv",
    )


def _series(
    rows: list[dict[str, Any]], labels: list[str], side: str, colour: str, symbol: str
) -> Series:
    values, low, high = ([row[f"{side}{end}"] for row in rows] for end in ("", "_low", "_high"))
    hover = [
        f"{label}, {side}: {estimate(*ends)}"
        for label, *ends in zip(labels, values, low, high, strict=True)
    ]
    return Series(side, values, labels, low, high, hover, colour, symbol)


def _named(found: dict[str, Any]) -> str:
    least = f"{100 * LEAST_SHARE:.0f} %"
    if found["together"] is None:
        return f"No head lies above it and above {least}."
    return (
        f"Above it, and above {least}: {', '.join(found['named'])}. Single shares need not add up; "
        "the table has these heads swapped together, on the requests that they were chosen on."
    )


def _together(found: dict[str, Any]) -> pd.DataFrame | None:
    both = found["together"]
    if both is None:
        return None
    names = {
        "removed": "effect removed",
        "restored": "effect restored",
        "rate": "requests with the behaviour: trigger",
        "rate_removed": "trigger, heads of the inert run",
        "rate_restored": "inert string, heads of the triggered run",
    }
    return pd.DataFrame(
        {
            f"{', '.join(found['named'])} together": list(names.values()),
            "share": [estimate(both[name], *both[f"{name}_interval"]) for name in names],
        }
    )
