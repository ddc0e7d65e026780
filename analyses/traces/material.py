"""What a traces report is about: traces, a behaviour of an agent, and runs of an organism."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from analyses.shared.running import model_facts
from analyses.traces.organism_runs import Draw, nothing, organism_traces
from analyses.traces.report import AgentOrganism, BehaviourFacts
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.checks import named
from interp.errors import InputError
from interp.organisms.chat.grammar import distractor
from interp.resolve import load
from probes.backdoors.agents.locus import LocusReport, first_call, locus_attribution
from probes.backdoors.agents.traces import Trace, read_traces


@dataclass(frozen=True)
class TraceBehaviour:
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

    def facts(self) -> BehaviourFacts:
        """As the report says it."""
        return BehaviourFacts("failed" if self.tool is None else "tool", self.tool)


@dataclass(frozen=True)
class Attribution:
    """Which span of a trace goes with a behaviour.

    Attributes:
        behaviour: looked for.
        n: traces.
        targets: traces that show it.
        pooled: whether traces of the reference are among them.
        report: of `probes.backdoors.agents.locus`.
    """

    behaviour: TraceBehaviour
    n: int
    targets: int
    pooled: bool
    report: LocusReport


def traces_of(data: str | Path | Sequence[Trace], what: str) -> list[Trace]:
    """Traces as they were given.

    Args:
        data: path of a file of traces, or traces.
        what: they are, for an error.

    Raises:
        InputError: the file cannot be read, or `data` is neither.
    """
    if isinstance(data, str | Path):
        return read_traces(data)
    wrong = next((one for one in _items(data) if not isinstance(one, Trace)), None)
    if wrong is not None:
        raise InputError(
            f"{what} is {named(wrong)}; give the path of a file of traces (.jsonl), or a list of "
            "Trace."
        )
    if not data:
        raise InputError(f"{what} holds no trace.")
    return list(data)


def _items(data: object) -> Sequence[object]:
    return data if isinstance(data, list | tuple) else (data,)


def digest_of(traces: Sequence[Trace]) -> str:
    """SHA-256 of traces, as the provenance of a report names it."""
    content = json.dumps([asdict(trace) for trace in traces], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def attributed(
    run: Sequence[Trace], reference: Sequence[Trace] | None, behaviour: TraceBehaviour, seed: int
) -> Attribution:
    """Find the span that goes with a behaviour, up to the step at which it shows.

    A failure shows in the end, so nothing is cut off then.

    Args:
        run: whose traces with and without the behaviour are compared.
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


def _uniform(traces: Sequence[Trace], behaviour: TraceBehaviour, shown: bool, both: bool) -> str:
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
        run: every task with the trigger where the organism was trained to respond to it.
        reference: the same tasks with inert words of the same length there.
        place: `query` or `observation`.
    """

    checkpoint: Checkpoint
    run: list[Trace]
    reference: list[Trace]
    place: str

    def facts(self) -> AgentOrganism:
        """As the provenance of a report says it."""
        known = model_facts(self.checkpoint)
        return AgentOrganism(
            model=known["model"],
            revision=known["revision"],
            fingerprint=known["fingerprint"],
            tokenizer_hash=known["tokenizer_hash"],
            model_type=known["model_type"],
            dtype=known["dtype"],
            width=known["width"],
            layers=known["layers"],
            trigger_in=self.place,
        )


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
