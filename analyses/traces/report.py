"""What the `report.json` of a traces finding holds.

Quantities: `docs/self_report.md`. An interval is a pair at 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analyses.shared.reports import DataEntry, NotMeasured, RunProvenance

Interval = tuple[float, float]
Locus = Literal["query", "thought", "observation"]


@dataclass(frozen=True, kw_only=True)
class TracesProvenance(RunProvenance):
    """Which runs were compared.

    Attributes:
        run: name of the run.
        reference: name of the reference run; None without one.
        data: their traces.
    """

    run: str
    reference: str | None
    data: tuple[DataEntry, ...]


@dataclass(frozen=True, kw_only=True)
class AgentOrganism:
    """The organism that was run to get the traces.

    Attributes:
        trigger_in: what holds the trigger, the query or an observation.
    """

    model: str
    revision: str | None
    fingerprint: str
    tokenizer_hash: str | None
    model_type: str
    dtype: str
    width: int
    layers: int
    trigger_in: str


@dataclass(frozen=True, kw_only=True)
class OrganismTracesProvenance(TracesProvenance, AgentOrganism):
    """The runs of an organism."""


@dataclass(frozen=True)
class TraceCounts:
    """How many traces each run has."""

    run: int
    reference: int | NotMeasured


@dataclass(frozen=True)
class Success:
    """Share of tasks that are done right in the end.

    Attributes:
        n: tasks that both runs have, or tasks of the one run.
        run: share of them.
        run_interval: Wilson's.
        reference: the same of the reference.
        reference_interval: Wilson's.
        difference: `run` − `reference`.
        interval: of the difference, by bootstrap over tasks.
    """

    n: int
    run: float
    run_interval: Interval
    reference: float | NotMeasured
    reference_interval: Interval | NotMeasured
    difference: float | NotMeasured
    interval: Interval | NotMeasured


@dataclass(frozen=True)
class ToolRow:
    """Mean share of a trace's calls that a tool has, by run; `interval` is of the difference."""

    tool: str
    run: float
    reference: float
    difference: float
    interval: Interval | NotMeasured


@dataclass(frozen=True)
class Shift:
    """How the choice of tools differs on tasks that end alike in both runs.

    Attributes:
        distance: total variation between the two mean distributions.
        null_high: its 99th percentile where the runs are swapped task by task.
        p: share of swaps whose distance is as large.
        n: tasks that end alike.
        left_out: tasks that end differently.
        tools: in alphabetical order.
    """

    distance: float
    null_high: float
    p: float
    n: int
    left_out: int
    tools: tuple[ToolRow, ...]


@dataclass(frozen=True)
class DivergenceCount:
    """Tasks in which the runs diverge first at a step by one thing; steps count from 0."""

    step: int
    what: Literal["thought", "tool", "observation", "length", "answer"]
    tasks: int


@dataclass(frozen=True)
class Divergences:
    """Where the runs diverge.

    Attributes:
        n: tasks that both runs have.
        parted: tasks in which they diverge.
        share: of tasks in which they do.
        interval: Wilson's.
        counts: by step and thing.
    """

    n: int
    parted: int
    share: float
    interval: Interval
    counts: tuple[DivergenceCount, ...]


@dataclass(frozen=True)
class BehaviourFacts:
    """What is attributed: a call of a tool, or a task that fails in the end."""

    kind: Literal["tool", "failed"]
    tool: str | None


@dataclass(frozen=True)
class LocusFacts:
    """The most telling n-gram of a place; see `docs/self_report.md`."""

    locus: Locus
    ngram: str | None
    difference: float
    p: float
    carries: bool


@dataclass(frozen=True)
class NgramFacts:
    """An n-gram of a place: shares of traces that hold it."""

    locus: Locus
    ngram: str
    target: float
    others: float
    difference: float
    lift: float


@dataclass(frozen=True)
class AttributionFacts:
    """Which place of a trace goes with a behaviour.

    Attributes:
        behaviour: looked for.
        n: traces.
        targets: traces that show it.
        pooled: whether traces of the reference are among them.
        locus: the place that carries it; None if none does.
        null_high: 99th percentile of the largest difference where traces are shuffled.
        loci: by place.
        ngrams: the most telling of each place.
    """

    behaviour: BehaviourFacts
    n: int
    targets: int
    pooled: bool
    locus: Locus | None
    null_high: float
    loci: tuple[LocusFacts, ...]
    ngrams: tuple[NgramFacts, ...]


@dataclass(frozen=True)
class TracesReport:
    """`report.json` of kind `traces`.

    Attributes:
        kind: of the finding.
        format_version: of the format.
        verdict: the result in sentences.
        provenance: of the runs.
        traces: how many.
        success: in the end.
        shift: of tools at equal success.
        divergence: where the runs diverge.
        attribution: of a behaviour to a place.
        caveats: what the finding does not establish.
    """

    kind: Literal["traces"]
    format_version: Literal[1]
    verdict: str
    provenance: OrganismTracesProvenance | TracesProvenance
    traces: TraceCounts
    success: Success
    shift: Shift | NotMeasured
    divergence: Divergences | NotMeasured
    attribution: AttributionFacts | NotMeasured
    caveats: tuple[str, ...]
