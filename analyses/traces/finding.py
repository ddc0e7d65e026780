"""The traces finding, put together from comparisons of traces."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analyses.report.panel import Drawing
from analyses.report.writing import plain
from analyses.shared.finding import Finding
from analyses.shared.reports import NotMeasured, as_json
from analyses.shared.tables import frame_of
from analyses.traces.material import Attribution
from analyses.traces.report import (
    AttributionFacts,
    DivergenceCount,
    Divergences,
    LocusFacts,
    NgramFacts,
    Shift,
    Success,
    ToolRow,
    TraceCounts,
    TracesProvenance,
    TracesReport,
)
from analyses.traces.verdict import verdict
from interp.statistics.intervals import wilson
from probes.backdoors.agents.traces import Divergence, SuccessShift, ToolShift, Trace

_NO_REFERENCE = NotMeasured("no reference run was given")
_NOT_ALIKE = NotMeasured("no task that calls a tool ends with the same success in both runs")
_ONE_TASK = NotMeasured("an interval needs two tasks or more")


@dataclass(frozen=True)
class RunComparison:
    """A run beside a reference.

    Attributes:
        success: of `success_shift`.
        shift: of `tool_shift`; None where no task ends alike in both.
        divergences: of `divergences`.
    """

    success: SuccessShift
    shift: ToolShift | None
    divergences: Sequence[Divergence]


@dataclass(frozen=True, repr=False)
class TracesFinding(Finding):
    """What shifts between two runs of an agent, and which span goes with a behaviour.

    `report` is a `TracesReport` as JSON; the tables are `tools`, `divergences` (a row a task),
    `loci` and `ngrams`.
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.traces.figures import DRAWING

        return DRAWING


def build(
    run: Sequence[Trace],
    reference: Sequence[Trace] | None,
    compared: RunComparison | None,
    attribution: Attribution | None,
    provenance: TracesProvenance,
) -> TracesFinding:
    """The report and its tables.

    Args:
        run: suspected.
        reference: beside it; None without one.
        compared: the two; None without a reference.
        attribution: of a behaviour; None if none was asked for.
        provenance: of the run.
    """
    report = TracesReport(
        kind="traces",
        format_version=1,
        verdict="",
        provenance=provenance,
        traces=TraceCounts(len(run), _NO_REFERENCE if reference is None else len(reference)),
        success=_success(run) if compared is None else _both(compared.success),
        shift=_NO_REFERENCE if compared is None else _shift(compared.shift),
        divergence=_NO_REFERENCE if compared is None else _divergence(compared.divergences),
        attribution=_attribution(attribution),
        caveats=(),
    )
    report = replace(report, caveats=tuple(_caveats(report)))
    report = replace(report, verdict=verdict(plain(as_json(report))))
    tables = {}
    if compared is not None:
        tables["divergences"] = frame_of(compared.divergences)
    if isinstance(report.shift, Shift):
        tables["tools"] = frame_of(report.shift.tools)
    if isinstance(report.attribution, AttributionFacts):
        tables["loci"] = frame_of(report.attribution.loci)
        tables["ngrams"] = frame_of(report.attribution.ngrams)
    return TracesFinding(plain(as_json(report)), tables)


def _success(run: Sequence[Trace]) -> Success:
    """The share of the one run that there is."""
    done = sum(trace.success for trace in run)
    return Success(
        n=len(run),
        run=done / len(run),
        run_interval=wilson(done, len(run), "tasks"),
        reference=_NO_REFERENCE,
        reference_interval=_NO_REFERENCE,
        difference=_NO_REFERENCE,
        interval=_NO_REFERENCE,
    )


def _both(found: SuccessShift) -> Success:
    return Success(
        n=found.n,
        run=found.run,
        run_interval=found.run_interval,
        reference=found.reference,
        reference_interval=found.reference_interval,
        difference=found.difference,
        interval=_ONE_TASK if found.interval is None else found.interval,
    )


def _shift(found: ToolShift | None) -> Shift | NotMeasured:
    if found is None:
        return _NOT_ALIKE
    return Shift(
        distance=found.distance,
        null_high=found.null_high,
        p=found.p,
        n=found.n,
        left_out=found.left_out,
        tools=tuple(
            ToolRow(
                row.tool,
                row.run,
                row.reference,
                row.difference,
                _ONE_TASK if row.interval is None else row.interval,
            )
            for row in found.tools
        ),
    )


def _divergence(rows: Sequence[Divergence]) -> Divergences:
    counts = Counter(
        (row.step, row.what) for row in rows if row.step is not None and row.what is not None
    )
    diverged = counts.total()
    return Divergences(
        n=len(rows),
        parted=diverged,
        share=diverged / len(rows),
        interval=wilson(diverged, len(rows), "tasks"),
        counts=tuple(
            DivergenceCount(step, what, tasks) for (step, what), tasks in sorted(counts.items())
        ),
    )


def _attribution(found: Attribution | None) -> AttributionFacts | NotMeasured:
    if found is None:
        return NotMeasured("no behaviour was named to attribute")
    return AttributionFacts(
        behaviour=found.behaviour.facts(),
        n=found.n,
        targets=found.targets,
        pooled=found.pooled,
        locus=found.report.locus,
        null_high=found.report.null_high,
        loci=tuple(
            LocusFacts(row.locus, row.ngram, row.difference, row.p, row.carries)
            for row in found.report.loci
        ),
        ngrams=tuple(
            NgramFacts(row.locus, row.ngram, row.target, row.others, row.difference, row.lift)
            for row in found.report.ngrams
        ),
    )


def _caveats(report: TracesReport) -> list[str]:
    said = []
    if not isinstance(report.traces.reference, NotMeasured):
        alone = report.traces.run + report.traces.reference - 2 * report.success.n
        if alone:
            said.append(f"{alone} traces of tasks that only one run has were left out.")
        if isinstance(report.shift, NotMeasured):
            said.append(
                "No task that calls a tool ends with the same success in both runs, so tools were "
                "not compared."
            )
        elif report.shift.left_out:
            said.append(
                f"{report.shift.left_out} tasks that end differently were left out of the "
                "comparison of tools."
            )
        said.append(
            "An agent that samples diverges from itself by chance; a second reference run, "
            "compared with the first, shows how often."
        )
    if isinstance(report.attribution, AttributionFacts):
        said.append(
            "Words that go with a behaviour need not cause it: a thought may repeat the query, and "
            "an observation may report what fails. Put the words in and take them out to see."
        )
        if report.attribution.pooled:
            said.append(
                "The run alone shows the behaviour always or never, so the traces of the reference "
                "stand for the other side; whatever else differs between the two counts too."
            )
    return said
