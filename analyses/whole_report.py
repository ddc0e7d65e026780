"""Every analysis that applies to a checkpoint, within a budget of time, as one report."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.registry import drawings, every_analysis
from analyses.report.panel import Drawing
from analyses.report.writing import write
from analyses.shared.analysis import Analysis, Facts, ReportInputs
from analyses.shared.data import PromptData, TextData, domains_of, labelled, organism_of
from analyses.shared.finding import Finding
from analyses.shared.reports import DataEntry
from analyses.shared.running import Progress, data_of
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import PromptSet
from interp.data.rows import Texts
from interp.errors import InputError
from steering.policy.policy import Policy

FORMAT_VERSION = 1
LABELS = ("harmful", "harmless", "alarming", "jailbroken")


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
    checkpoint: Checkpoint,
    data: PromptData = None,
    *,
    texts: TextData = None,
    reference: Checkpoint | None = None,
    policies: Sequence[Policy] = (),
    allow: Sequence[str] = (),
    minutes: float = 10.0,
    max_new_tokens: int = 64,
    limit: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    insist: Sequence[str] = (),
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Run every analysis that applies, one after the other, until the budget is used up.

    An analysis that was begun is finished: the budget decides what is begun, and is handed on to
    those that can keep to it. What was not measured is listed with the reason.

    Args:
        checkpoint: from `mechguard.load`.
        data: prompts by label (`harmful`, `harmless`, `alarming`, `jailbroken`), or prompts and
            files that bring their labels; an organism's own or the built-in ones if None.
        texts: files, documents, or documents by domain; an organism's own if None.
        reference: a reference model of the same shape.
        policies: to be measured.
        allow: what may differ from the checkpoint that a policy names as its origin.
        minutes: of the wall clock, after which no analysis is begun.
        max_new_tokens: tokens of an answer, at most.
        limit: prompts of each label in each part, at most.
        seed: random seed.
        settings: further arguments of single analyses, by their kind.
        insist: kinds of analyses whose failure is an error, not a reason.
        workdir: folder from which a stopped run goes on.
        command: kept in the provenance, to reproduce the run.
        progress: called with (stage, done, total).

    Raises:
        InputError: unusable prompts, texts or settings, nothing that applies, or an analysis that
            `insist` names and that cannot be run.
    """
    if not minutes > 0:
        raise InputError(f"a budget of {minutes:g} minutes leaves no time; give more than 0.")
    inputs = ReportInputs(
        checkpoint,
        texts=_texts(checkpoint, texts),
        prompts=labelled(data, LABELS),
        reference=reference,
        policies=policies,
        allow=allow,
        seed=seed,
        limit=limit,
        max_new_tokens=max_new_tokens,
        settings=settings or {},
        workdir=workdir,
        command=command,
        progress=progress,
    )
    found, absent = _run(inputs, minutes, insist)
    if not found:
        raise InputError(f"nothing could be measured on {checkpoint.name}: {_listed(absent)}")
    return _together(found, absent, given_data(inputs.texts, inputs.prompts))


def given_data(texts: Sequence[Texts], prompts: Mapping[str, PromptSet]) -> tuple[DataEntry, ...]:
    """What a report is made from, as it was given: texts by domain and prompts by label."""
    read = (DataEntry(one.name, one.sha256, len(one.documents)) for one in texts)
    return (*read, *data_of(prompts))


def _texts(checkpoint: Checkpoint, texts: TextData) -> list[Texts]:
    """Texts by domain; none where nobody gave any and the checkpoint is no organism."""
    if texts is None and organism_of(checkpoint.name) is None:
        return []
    return domains_of(texts, checkpoint.name)


def _run(
    inputs: ReportInputs, minutes: float, insist: Sequence[str]
) -> tuple[list[Finding], dict[str, str]]:
    """The findings of all analyses that apply, and why the others were not run."""
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
    return found, absent


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


def _listed(absent: Mapping[str, str]) -> str:
    return "; ".join(f"{kind} ({why.rstrip('.')})" for kind, why in absent.items()) + "."


def _together(
    found: Sequence[Finding], absent: Mapping[str, str], data: Sequence[DataEntry]
) -> ModelReport:
    whole: dict[str, Any] = {
        "kind": "report",
        "format_version": FORMAT_VERSION,
        "verdict": " ".join(finding.verdict for finding in found),
        "provenance": found[0].report["provenance"],
        "data": [asdict(entry) for entry in data],
        "findings": {finding.kind: finding.report for finding in found},
        "not_measured": dict(absent),
        "caveats": [f"Not measured: {_listed(absent)}"] if absent else [],
    }
    tables: dict[str, pd.DataFrame] = {
        f"{finding.kind}/{name}": table
        for finding in found
        for name, table in finding.tables.items()
    }
    return ModelReport(whole, tables, tuple(found))
