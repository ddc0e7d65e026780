"""`analyses.traces`: from the traces of an agent to a traces finding; no model is run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analyses.shared.running import Stopwatch
from analyses.traces.finding import Compared, TracesFinding, build
from analyses.traces.material import Behaviour, attributed
from interp.errors import InputError
from probes.backdoors.agents.traces import Trace, divergences, paired, success_shift, tool_shift


def traces(
    run: Sequence[Trace],
    reference: Sequence[Trace] | None = None,
    *,
    tool: str | None = None,
    failed: bool = False,
    names: tuple[str, str] = ("run", "reference"),
    seed: int = 0,
    command: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> TracesFinding:
    """Compare a run of an agent with another of the same tasks, or attribute a behaviour of it.

    The quantities and their sources are in `docs/self_report.md`.

    Args:
        run: suspected: with a trigger, or of a suspected model; of
            `probes.backdoor.agent_traces.read_traces`.
        reference: the same tasks, by their ids, without it or of a twin.
        tool: attribute calls of this tool to a span of the trace.
        failed: attribute failure instead.
        names: of the two runs, for the report.
        seed: of bootstrap and permutations.
        command: kept in the provenance.
        provenance: what is further known of the runs, such as the model.

    Raises:
        InputError: nothing is asked for, both a tool and failure are, two runs without a common
            task, or a behaviour that all or no traces show.
    """
    watch = Stopwatch()
    if tool is not None and failed:
        raise InputError("attribute calls of a tool or failures, and not both (--tool, --failed).")
    if reference is None and tool is None and not failed:
        raise InputError(
            "give a second run of the same tasks to compare with (--reference FILE), or a "
            "behaviour to attribute (--tool NAME or --failed)."
        )
    compared = None if reference is None else _compared(run, reference, seed)
    attribution = None
    if tool is not None or failed:
        attribution = attributed(run, reference, Behaviour(tool), seed)
    told = {
        **(provenance or {}),
        "run": names[0],
        "reference": None if reference is None else names[1],
        "data": [
            {"name": name, "sha256": _digest(some), "sequences": len(some)}
            for name, some in zip(names, (run, reference), strict=True)
            if some is not None
        ],
        **watch.facts(seed, command),
    }
    return build(run, reference, compared, attribution, told)


def _compared(run: Sequence[Trace], reference: Sequence[Trace], seed: int) -> Compared:
    """Tools, success and where two runs part; without the first where no task ends alike."""
    success = success_shift(run, reference, seed=seed)  # raises if no task is common
    alike = any(a.success == b.success and (a.steps or b.steps) for a, b in paired(run, reference))
    shift = tool_shift(run, reference, seed=seed) if alike else None
    return Compared(success, shift, divergences(run, reference))


def _digest(traces: Sequence[Trace]) -> str:
    content = json.dumps([asdict(trace) for trace in traces], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
