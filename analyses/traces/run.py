"""`analyses.traces`: from the traces of an agent to a traces finding; no model is run."""

from collections.abc import Sequence
from pathlib import Path

from analyses.shared.reports import DataEntry
from analyses.shared.running import Stopwatch
from analyses.traces.finding import RunComparison, TracesFinding, build
from analyses.traces.material import TraceBehaviour, attributed, digest_of, traces_of
from analyses.traces.report import AgentOrganism, OrganismTracesProvenance, TracesProvenance
from interp.errors import InputError
from probes.backdoors.agents.traces import Trace, divergences, paired, success_shift, tool_shift

TraceData = str | Path | Sequence[Trace]
"""The path of a file of traces, or traces."""


def traces(
    data: TraceData,
    reference: TraceData | None = None,
    *,
    tool: str | None = None,
    failed: bool = False,
    names: tuple[str, str] | None = None,
    organism: AgentOrganism | None = None,
    seed: int = 0,
    command: str | None = None,
) -> TracesFinding:
    """Compare a run of an agent with another of the same tasks, or attribute a behaviour of it.

    The quantities and their sources are in `docs/self_report.md`.

    Args:
        data: traces of the suspected run: with a trigger, or of a suspected model; a path or the
            traces themselves.
        reference: traces of the same tasks, by their ids, without the trigger or of a reference
            model.
        tool: attribute calls of this tool to a span of the trace.
        failed: attribute failure instead.
        names: of the two runs, for the report; those of the files if None.
        organism: that was run to get the traces, for the report.
        seed: random seed of bootstrap and permutations.
        command: kept in the provenance.

    Raises:
        InputError: traces that cannot be read, nothing is asked for, both a tool and failure are,
            two runs without a common task, or a behaviour that all or no traces show.
    """
    watch = Stopwatch()
    if tool is not None and failed:
        raise InputError("attribute calls of a tool or failures, and not both (--tool, --failed).")
    if reference is None and tool is None and not failed:
        raise InputError(
            "give a second run of the same tasks to compare with (--reference FILE), or a "
            "behaviour to attribute (--tool NAME or --failed)."
        )
    run = traces_of(data, "data")
    other = None if reference is None else traces_of(reference, "reference")
    compared = None if other is None else _compared(run, other, seed)
    attribution = None
    if tool is not None or failed:
        attribution = attributed(run, other, TraceBehaviour(tool), seed)
    first, second = names or (_name(data, "run"), _name(reference, "reference"))
    entries = [DataEntry(first, digest_of(run), len(run))]
    if other is not None:
        entries.append(DataEntry(second, digest_of(other), len(other)))
    provenance = TracesProvenance(
        **watch.facts(seed, command),
        run=first,
        reference=None if other is None else second,
        data=tuple(entries),
    )
    if organism is not None:
        provenance = OrganismTracesProvenance(**vars(provenance), **vars(organism))
    return build(run, other, compared, attribution, provenance)


def _name(data: TraceData | None, otherwise: str) -> str:
    return Path(data).name if isinstance(data, str | Path) else otherwise


def _compared(run: Sequence[Trace], reference: Sequence[Trace], seed: int) -> RunComparison:
    """Tools, success and where two runs diverge; without the first where no task ends alike."""
    success = success_shift(run, reference, seed=seed)  # raises if no task is common
    alike = any(a.success == b.success and (a.steps or b.steps) for a, b in paired(run, reference))
    shift = tool_shift(run, reference, seed=seed) if alike else None
    return RunComparison(success, shift, divergences(run, reference))
