"""Every analysis that applies to a checkpoint, within a budget of time, as one report."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.registry import drawings, every_analysis
from analyses.report.panel import Drawing
from analyses.report.writing import write
from analyses.shared.analysis import Analysis, Facts, ReportInputs
from analyses.shared.data import organism_of
from analyses.shared.finding import Finding
from interp.errors import InputError
from interp.model.checkpoint import Checkpoint

FORMAT_VERSION = 1


@dataclass(frozen=True, repr=False)
class ModelReport(Finding):
    """The findings of several analyses on one page.

    Attributes:
        report: what `report.json` holds; the findings stand under `findings` by their kind.
        tables: those of all findings, named `KIND/NAME`.
        findings: in the order of the page.
    """

    findings: tuple[Finding, ...] = ()

    def figures(self) -> dict[str, Any]:
        """Every figure of the report page, by its title."""
        return {title: one for found in self.findings for title, one in found.figures().items()}

    @classmethod
    def drawing(cls) -> Drawing:
        """A report has no panels of its own."""
        return Drawing("Model report", lambda _: [])

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page, `report.json` and `tables/KIND/*.csv`; returns the page's path.

        Args:
            directory: made if absent.
            overwrite: replace the report of another run.

        Raises:
            InputError: the folder cannot be written to, or holds the report of another run.
        """
        tables = {found.kind: found.tables for found in self.findings}
        return write(
            self.report, tables, drawings(self.report), Path(directory), overwrite=overwrite
        )


def facts_of(checkpoint: Checkpoint, given: frozenset[str] = frozenset()) -> Facts:
    """What decides which analyses apply to a loaded checkpoint."""
    return Facts(
        checkpoint.anatomy,
        getattr(checkpoint.tokenizer, "chat_template", None),
        organism_of(checkpoint.name),
        given,
    )


def report(
    inputs: ReportInputs, *, minutes: float = 10.0, insist: Sequence[str] = ()
) -> ModelReport:
    """Run every analysis that applies, one after the other, until the budget is used up.

    An analysis that was begun is finished: the budget decides what is begun, and is handed on to
    those that can keep to it. What was not measured is listed with the reason.

    Args:
        inputs: the checkpoint and what to measure it with.
        minutes: of the wall clock, after which no analysis is begun.
        insist: kinds of analyses whose failure on the given prompts is an error, not a reason.

    Raises:
        InputError: nothing applies, or an analysis that `insist` names cannot be run.
    """
    if minutes <= 0:
        raise InputError(f"a budget of {minutes:g} minutes leaves no time; give more than 0.")
    begun = time.monotonic()
    facts = facts_of(inputs.checkpoint, _given(inputs))
    found: list[Finding] = []
    absent: dict[str, str] = {}
    for one in every_analysis():
        left = 60 * minutes - (time.monotonic() - begun)
        why = one.missing(facts) or _not_begun(one, left, minutes)
        if why is None and one.in_report is not None:
            try:
                found.append(one.in_report(replace(inputs, seconds=left)))
                continue
            except InputError as error:
                if one.kind in insist:
                    raise
                why = str(error)
        absent[one.kind] = why or "it runs on its own only"
    if not found:
        raise InputError(f"nothing could be measured on {inputs.checkpoint.name}: {_told(absent)}")
    return _together(found, absent)


def _given(inputs: ReportInputs) -> frozenset[str]:
    given = {
        "texts": inputs.texts,
        "reference": inputs.reference,
        "policies": inputs.policies,
    }
    return frozenset(name for name, value in given.items() if value)


def _not_begun(one: Analysis, left: float, minutes: float) -> str | None:
    if one.in_report is None:
        return "it runs on its own only"
    # Under `torchrun` the ranks share the captures of distributed analyses and nothing else.
    if not one.distributed and os.environ.get("RANK", "0") != "0":
        return "it runs on the first rank"
    if left <= 0:
        return f"the budget of {minutes:g} minutes was used up; raise it with --minutes"
    return None


def _told(absent: Mapping[str, str]) -> str:
    return "; ".join(f"{kind} ({why.rstrip('.')})" for kind, why in absent.items()) + "."


def _together(found: Sequence[Finding], absent: Mapping[str, str]) -> ModelReport:
    whole: dict[str, Any] = {
        "kind": "report",
        "format_version": FORMAT_VERSION,
        "verdict": " ".join(finding.verdict for finding in found),
        "provenance": found[0].report["provenance"],
        "findings": {finding.kind: finding.report for finding in found},
        "not_measured": dict(absent),
        "caveats": [f"Not measured: {_told(absent)}"] if absent else [],
    }
    tables: dict[str, pd.DataFrame] = {
        f"{finding.kind}/{name}": table
        for finding in found
        for name, table in finding.tables.items()
    }
    return ModelReport(whole, tables, tuple(found))
