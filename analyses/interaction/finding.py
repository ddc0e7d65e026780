"""The interaction finding, put together from a measured interaction."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.interaction.material import Quantity
from analyses.interaction.verdict import LEVEL, stands_out, verdict
from analyses.report.panel import Drawing
from analyses.report.writing import plain
from analyses.shared.finding import Finding
from probes.backdoors.switches.switches import Interaction

FORMAT_VERSION = 1
ENOUGH = 19
"""Strings in a place with which p can reach 0.05."""

_KEPT = ("value", "interval", "prompts", "p", "p_first", "p_second", "null_high", "null")


@dataclass(frozen=True, repr=False)
class InteractionFinding(Finding):
    """Whether two switches work together.

    `report` follows the schema in `docs/self_report.md`; the tables are `cells`, `null` and
    `prompts` (I of each prompt).
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.interaction.figures import DRAWING

        return DRAWING


def build(
    found: Interaction,
    switches: list[dict[str, Any]],
    quantity: Quantity,
    unequal: int,
    provenance: dict[str, Any],
) -> InteractionFinding:
    """The report and its tables; no model runs here.

    Args:
        found: what was measured.
        switches: the two, as the report names them.
        quantity: f.
        unequal: distractors of another length than the switch that they stand in for.
        provenance: of the run.
    """
    told = found.to_dict()
    cells = [
        {"cell": cell, "mean": mean, "interval": told["cell_intervals"][cell]}
        for cell, mean in found.cells.items()
    ]
    report: dict[str, Any] = {
        "kind": "interaction",
        "format_version": FORMAT_VERSION,
        "verdict": "",
        "provenance": provenance,
        "measure": {"name": quantity.name, "unit": quantity.unit, **quantity.about},
        "switches": switches,
        "cells": cells,
        **{name: told[name] for name in _KEPT},
    }
    report = plain(report)
    report["stands_out"] = stands_out(report)
    report["caveats"] = _caveats(report, unequal)
    report["verdict"] = verdict(report)
    bounds = [cell["interval"] or (None, None) for cell in cells]
    tables = {
        "cells": pd.DataFrame(
            {
                "cell": list(found.cells),
                "mean": list(found.cells.values()),
                "low": [low for low, _ in bounds],
                "high": [high for _, high in bounds],
            }
        ),
        "prompts": pd.DataFrame(
            {"prompt": range(len(found.per_prompt)), "interaction": found.per_prompt}
        ),
    }
    if found.null:
        tables["null"] = pd.DataFrame(told["null"])
    return InteractionFinding(report, tables)


def _caveats(report: dict[str, Any], unequal: int) -> list[str]:
    said = [
        "I depends on the scale: effects that add up in log-odds do not in shares that reach 0 or "
        "1, where two switches that each suffice take from each other. What stands in their places "
        "is measured on the same scale.",
        "An interaction is no proof of a backdoor: words of one phrase work together on any model.",
    ]
    for place, switch in zip(("first", "second"), report["switches"], strict=True):
        others = sum(row["instead_of"] == place for row in report["null"])
        if 0 < others < ENOUGH:
            what = "adapter" if switch["at"] == "adapter" else "string"
            what += "s" if others > 1 else ""
            said.append(
                f"{others} {what} stood in the place of the {place} switch; p can reach "
                f"{LEVEL:g} with {ENOUGH} or more."
            )
        if not others:
            said.append(
                f"Nothing stood in the place of the {place} switch, {switch['name']}, so it is not "
                "shown that this one is needed."
            )
    if unequal:
        said.append(
            f"{unequal} of {len(report['null'])} strings have another number of tokens than the "
            "switch that they stand in for."
        )
    if report["prompts"] < 2:
        said.append("With one prompt there is no interval, so nothing is claimed.")
    return said
