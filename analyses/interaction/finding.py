"""The interaction finding, put together from a measured interaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analyses.interaction.report import (
    AdapterSwitch,
    CellRow,
    InteractionProvenance,
    InteractionReport,
    Interval,
    MeasureFacts,
    NullRow,
    Position,
    SwitchFacts,
)
from analyses.interaction.verdict import LEVEL, stands_out, verdict
from analyses.report.panel import Drawing
from analyses.report.writing import plain
from analyses.shared.finding import Finding
from analyses.shared.reports import NotMeasured, as_json
from analyses.shared.tables import frame_of
from probes.backdoors.switches.switches import POSITIONS, Interaction

ENOUGH = 19
"""Strings in a place with which p can reach 0.05."""

_ONE_PROMPT = NotMeasured("an interval needs two prompts or more")


@dataclass(frozen=True, repr=False)
class InteractionFinding(Finding):
    """Whether two switches work together.

    `report` is an `InteractionReport` as JSON; the tables are `cells`, `null` and `prompts` (I of
    each prompt).
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.interaction.figures import DRAWING

        return DRAWING


def build(
    found: Interaction,
    switches: tuple[SwitchFacts, SwitchFacts],
    measure: MeasureFacts,
    unequal: int,
    provenance: InteractionProvenance,
) -> InteractionFinding:
    """The report and its tables; no model runs here.

    Args:
        found: what was measured.
        switches: the two, as the report names them.
        measure: what f is.
        unequal: distractors of another length than the switch that they stand in for.
        provenance: of the run.
    """
    null = tuple(NullRow(row.distractor, row.instead_of, row.value) for row in found.null)
    report = InteractionReport(
        kind="interaction",
        format_version=1,
        verdict="",
        provenance=provenance,
        measure=measure,
        switches=switches,
        cells=tuple(
            CellRow(cell, mean, _bounds(found.cell_intervals[cell]))
            for cell, mean in found.cells.items()
        ),
        value=found.value,
        interval=_bounds(found.interval),
        prompts=len(found.per_prompt),
        p=_or_absent(found.p, "either"),
        p_first=_or_absent(found.p_first, "the first"),
        p_second=_or_absent(found.p_second, "the second"),
        null_high=_or_absent(found.null_high, "either"),
        null=null,
        stands_out=stands_out(found.interval, found.p),
        caveats=tuple(_caveats(switches, null, unequal, len(found.per_prompt))),
    )
    report = replace(report, verdict=verdict(plain(as_json(report))))
    tables = {
        "cells": frame_of(report.cells),
        "prompts": pd.DataFrame(
            {"prompt": range(len(found.per_prompt)), "interaction": found.per_prompt}
        ),
    }
    if null:
        tables["null"] = frame_of(null)
    return InteractionFinding(plain(as_json(report)), tables)


def _bounds(interval: Interval | None) -> Interval | NotMeasured:
    return _ONE_PROMPT if interval is None else interval


def _or_absent(value: float | None, switch: str) -> float | NotMeasured:
    if value is None:
        return NotMeasured(f"nothing stood in the place of {switch} switch")
    return value


def _caveats(
    switches: Sequence[SwitchFacts], null: Sequence[NullRow], unequal: int, prompts: int
) -> list[str]:
    said = [
        "I depends on the scale: effects that add up in log-odds do not in shares that reach 0 or "
        "1, where two switches that each suffice take from each other. What stands in their places "
        "is measured on the same scale.",
        "An interaction is no proof of a backdoor: words of one phrase work together on any model.",
    ]
    for position, switch in zip(POSITIONS, switches, strict=True):
        said += _of_null(position, switch, sum(row.instead_of == position for row in null))
    if unequal:
        said.append(
            f"{unequal} of {len(null)} strings have another number of tokens than the switch that "
            "they stand in for."
        )
    if prompts < 2:
        said.append("With one prompt there is no interval, so nothing is claimed.")
    return said


def _of_null(position: Position, switch: SwitchFacts, others: int) -> list[str]:
    """What too few others in the place of a switch leave open."""
    if not others:
        return [
            f"Nothing stood in the place of the {position} switch, {switch.name}, so it is not "
            "shown that this one is needed."
        ]
    if others >= ENOUGH:
        return []
    what = "adapter" if isinstance(switch, AdapterSwitch) else "string"
    what += "s" if others > 1 else ""
    return [
        f"{others} {what} stood in the place of the {position} switch; p can reach {LEVEL:g} with "
        f"{ENOUGH} or more."
    ]
