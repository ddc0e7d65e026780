"""What a traces report is about: a behaviour of an agent, and the runs of an agent organism."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analyses.traces.organism_runs import Draw, nothing, organism_traces
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from interp.organisms.chat.grammar import distractor
from interp.resolve import load
from probes.backdoors.agents.locus import LocusReport, first_call, locus_attribution
from probes.backdoors.agents.traces import Trace


@dataclass(frozen=True)
class Behaviour:
    """What a trace may show.

    Attributes:
        tool: that is called; None for a task that is not done right in the end.
    """

    tool: str | None = None

    def shown(self, trace: Trace) -> bool:
        """Whether a trace shows it."""
        if self.tool is None:
            return not trace.success
        return any(step.tool == self.tool for step in trace.steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": "failed" if self.tool is None else "tool", "tool": self.tool}


@dataclass(frozen=True)
class Attribution:
    """Which span of a trace goes with a behaviour.

    Attributes:
        behaviour: looked for.
        n: traces.
        targets: traces that show it.
        pooled: whether traces of the reference are among them.
        report: of `probes.backdoor.locus`.
    """

    behaviour: Behaviour
    n: int
    targets: int
    pooled: bool
    report: LocusReport


def attributed(
    run: Sequence[Trace], reference: Sequence[Trace] | None, behaviour: Behaviour, seed: int
) -> Attribution:
    """Find the span that goes with a behaviour, up to the step at which it shows.

    A failure shows in the end, so nothing is cut off then.

    Args:
        run: whose traces are told apart.
        reference: whose traces join them where all or none of the run show the behaviour.
        behaviour: looked for.
        seed: of the permutations.

    Raises:
        InputError: no trace shows the behaviour, or all do.
    """
    traces = list(run)
    flags = [behaviour.shown(trace) for trace in traces]
    pooled = reference is not None and (all(flags) or not any(flags))
    if reference is not None and pooled:
        traces += reference
        flags = [behaviour.shown(trace) for trace in traces]
    if all(flags) or not any(flags):
        raise InputError(_uniform(traces, behaviour, any(flags), reference is not None))
    until = None if behaviour.tool is None else first_call(behaviour.tool)
    found = locus_attribution(traces, flags, until=until, seed=seed)
    return Attribution(behaviour, len(traces), sum(flags), pooled, found)


def _uniform(traces: Sequence[Trace], behaviour: Behaviour, shown: bool, both: bool) -> str:
    """Why there is nothing to tell apart."""
    where = f"the {len(traces)} traces" + (" of both runs" if both else "")
    what = "fails" if behaviour.tool is None else f"calls the tool {behaviour.tool!r}"
    if shown:
        missing = "some without the behaviour, such as a --reference run"
        return f"each of {where} {what}, so nothing tells them apart; give {missing}."
    said = f"none of {where} {what}, so there is nothing to attribute"
    if behaviour.tool is None:
        return f"{said}; give runs in which some tasks fail."
    called = sorted({step.tool for trace in traces for step in trace.steps})
    if not called:
        return f"{said}; no tool is called at all."
    return f"{said}; the tools are {', '.join(map(repr, called))}."


@dataclass(frozen=True)
class OrganismRuns:
    """The runs of an agent organism.

    Attributes:
        checkpoint: of the organism.
        run: every task with the trigger where the organism was taught to listen.
        reference: the same tasks with inert words of the same length there.
        place: `query` or `observation`.
    """

    checkpoint: Checkpoint
    run: list[Trace]
    reference: list[Trace]
    place: str


def organism_runs(name: str, seed: int = 0) -> OrganismRuns:
    """Run an agent organism with its trigger and with inert words in its place.

    Args:
        name: such as `agent-query`; one that is not there is trained first.
        seed: of the findings and the inert words.

    Raises:
        InputError: there is no such organism, or it is no agent.
    """
    facts = organisms.recipe(name).facts(0)
    if "attack" not in facts:
        agents = [one for one in organisms.names() if one.startswith("agent")]
        raise InputError(
            f"organism:{name} is no agent and leaves no traces; give one of {', '.join(agents)}."
        )
    place, words = facts["trigger"]["locus"], tuple(facts["trigger"]["words"])
    checkpoint = load(f"organism:{name}")

    def traces(draw: Draw) -> list[Trace]:
        front, behind = (draw, nothing) if place == "query" else (nothing, draw)
        return organism_traces(checkpoint, front, behind, seed=seed)

    return OrganismRuns(checkpoint, traces(lambda _: words), traces(distractor), place)
