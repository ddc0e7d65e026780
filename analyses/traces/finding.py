"""The traces finding, put together from comparisons of traces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.report.panel import Drawing
from analyses.report.writing import plain
from analyses.shared.finding import Finding
from analyses.traces.material import Attribution
from analyses.traces.verdict import verdict
from interp.statistics.intervals import wilson
from probes.backdoors.agents.traces import ToolShift, Trace

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Compared:
    """A run beside a reference.

    Attributes:
        success: of `success_shift`.
        shift: of `tool_shift`; None where no task ends alike in both.
        divergences: of `divergences`.
    """

    success: dict[str, Any]
    shift: ToolShift | None
    divergences: pd.DataFrame


@dataclass(frozen=True, repr=False)
class TracesFinding(Finding):
    """What shifts between two runs of an agent, and which span goes with a behaviour.

    `report` follows the schema in `docs/self_report.md`; the tables are `tools`, `divergences` (a
    row a task), `loci` and `ngrams`.
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.traces.figures import DRAWING

        return DRAWING


def build(
    run: Sequence[Trace],
    reference: Sequence[Trace] | None,
    compared: Compared | None,
    attribution: Attribution | None,
    provenance: dict[str, Any],
) -> TracesFinding:
    """The report and its tables.

    Args:
        run: suspected.
        reference: beside it; None without one.
        compared: the two; None without a reference.
        attribution: of a behaviour; None if none was asked for.
        provenance: of the run.
    """
    report: dict[str, Any] = {
        "kind": "traces",
        "format_version": FORMAT_VERSION,
        "verdict": "",
        "provenance": provenance,
        "traces": {"run": len(run), "reference": None if reference is None else len(reference)},
        "success": _success(run) if compared is None else compared.success,
        "shift": None if compared is None else _shift(compared.shift),
        "divergence": None if compared is None else _divergence(compared.divergences),
        "attribution": None if attribution is None else _attribution(attribution),
    }
    report["caveats"] = _caveats(report)
    report = plain(report)
    report["verdict"] = verdict(report)
    tables = {}
    if compared is not None:
        tables["divergences"] = compared.divergences.astype({"step": "Int64"})
        if compared.shift is not None:
            tables["tools"] = compared.shift.tools
    if attribution is not None:
        tables |= {"loci": attribution.report.loci, "ngrams": attribution.report.ngrams}
    return TracesFinding(report, tables)


def _success(run: Sequence[Trace]) -> dict[str, Any]:
    """The share of the one run that there is."""
    done = sum(trace.success for trace in run)
    found: dict[str, Any] = {"n": len(run), "run": done / len(run)}
    found["run_interval"] = list(wilson(done, len(run)))
    return found | dict.fromkeys(("reference", "reference_interval", "difference", "interval"))


def _shift(found: ToolShift | None) -> dict[str, Any] | None:
    if found is None:
        return None
    tools = []
    for row in plain(found.tools):
        bounds = [row.pop("low"), row.pop("high")]
        tools.append(row | {"interval": None if None in bounds else bounds})
    return {
        "distance": found.distance,
        "null_high": found.null_high,
        "p": found.p,
        "n": found.n,
        "left_out": found.left_out,
        "tools": tools,
    }


def _divergence(table: pd.DataFrame) -> dict[str, Any]:
    parted = table.dropna(subset="what")
    counts = parted.groupby(["step", "what"]).size().reset_index(name="tasks")
    counts["step"] = counts["step"].astype(int)
    return {
        "n": len(table),
        "parted": len(parted),
        "share": len(parted) / len(table),
        "interval": list(wilson(len(parted), len(table))),
        "counts": counts.to_dict("records"),
    }


def _attribution(found: Attribution) -> dict[str, Any]:
    return {
        "behaviour": found.behaviour.to_dict(),
        "n": found.n,
        "targets": found.targets,
        "pooled": found.pooled,
        "locus": found.report.locus,
        "null_high": found.report.null_high,
        "loci": found.report.loci.replace({np.nan: None}).to_dict("records"),
        "ngrams": found.report.ngrams.to_dict("records"),
    }


def _caveats(report: dict[str, Any]) -> list[str]:
    said = []
    traces, success = report["traces"], report["success"]
    if traces["reference"] is not None:
        alone = traces["run"] + traces["reference"] - 2 * success["n"]
        if alone:
            said.append(f"{alone} traces of tasks that only one run has were left out.")
        if report["shift"] is None:
            said.append(
                "No task that calls a tool ends with the same success in both runs, so tools were "
                "not compared."
            )
        elif report["shift"]["left_out"]:
            said.append(
                f"{report['shift']['left_out']} tasks that end differently were left out of the "
                "comparison of tools."
            )
        said.append(
            "An agent that samples parts from itself by chance; a second reference run, compared "
            "with the first, tells how often."
        )
    found = report["attribution"]
    if found is not None:
        said.append(
            "Words that go with a behaviour need not cause it: a thought may repeat the query, and "
            "what fails may be told by an observation. Put the words in and take them out to see."
        )
        if found["pooled"]:
            said.append(
                "The run alone shows the behaviour always or never, so the traces of the reference "
                "were told apart from its own; whatever else differs between the two counts too."
            )
    return said
