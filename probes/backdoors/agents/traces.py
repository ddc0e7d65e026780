"""Traces of agents: which tools shift at equal success, and where two runs diverge.

After Yang et al., "Watch Out for Your Agents!" (arXiv 2402.11208): a backdoor of an agent may be
triggered by the query or by an observation, and may change intermediate steps alone while the final
answer stays right, so that success tells nothing. The measures are ours.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.reading import decoded, json_lines, read_bytes
from interp.resume.files import write_atomically
from interp.statistics.intervals import Interval, paired_interval, wilson

PERMUTATIONS = 1000

Difference = Literal["thought", "tool", "observation", "length", "answer"]
"""What two runs of a task may differ in first; `length` is that one of them has no such step."""


@dataclass(frozen=True)
class Step:
    """One turn of an agent.

    Attributes:
        thought: what it thinks; may be empty.
        tool: that it calls.
        observation: what the tool returns.
    """

    thought: str
    tool: str
    observation: str


@dataclass(frozen=True)
class Trace:
    """A run of an agent.

    Attributes:
        id: of the task; two runs of one task share it.
        query: of the user.
        steps: in order.
        answer: said in the end; may be empty.
        success: whether the task was done right in the end.
    """

    id: str
    query: str
    steps: tuple[Step, ...]
    answer: str
    success: bool


def read_traces(path: str | Path) -> list[Trace]:
    """Read JSONL: `id`, `query`, `steps` of `thought`, `tool`, `observation`, `answer`, `success`.

    `thought` and `answer` may be missing.

    Raises:
        InputError: the file is missing, empty or malformed, or a field is missing; with the line.
    """
    file = Path(path)
    try:
        entries = json_lines(decoded(read_bytes(file)))
    except ValueError as error:
        raise InputError(f"{file} is not readable as JSONL ({error}).") from error
    if not entries:
        raise InputError(f"{file} holds no trace.")
    traces = [_trace(entry, f"line {number} of {file}") for number, entry in entries]
    if len({trace.id for trace in traces}) < len(traces):
        raise InputError(f"{file} has two traces of the same id; put runs into files of their own.")
    return traces


def write_traces(path: Path, traces: Iterable[Trace]) -> Path:
    """Write what `read_traces` reads.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [json.dumps(asdict(trace), ensure_ascii=False) for trace in traces]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return path


def _trace(entry: Any, where: str) -> Trace:
    if not isinstance(entry, dict):
        raise InputError(f"{where} has no fields.")
    steps = _field(entry, "steps", list, where)
    made = []
    for number, step in enumerate(steps):
        place = f"step {number} of {where}"
        if not isinstance(step, dict):
            raise InputError(f"{place} has no fields.")
        made.append(
            Step(
                str(step.get("thought") or ""),
                _field(step, "tool", str, place),
                _field(step, "observation", str, place),
            )
        )
    return Trace(
        str(_field(entry, "id", (str, int), where)),
        _field(entry, "query", str, where),
        tuple(made),
        str(entry.get("answer") or ""),
        _field(entry, "success", bool, where),
    )


def _field(entry: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    if not isinstance(entry.get(name), kind):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where} has no {name!r} of type {wanted}.")
    return entry[name]


@dataclass(frozen=True)
class SuccessShift:
    """Share of the tasks of both runs that are done right.

    Attributes:
        n: tasks that both runs have.
        run: share of them that the run does right.
        run_interval: Wilson's, at 95 %.
        reference: share that the reference does right.
        reference_interval: Wilson's, at 95 %.
        difference: `run` − `reference`.
        interval: of the difference, at 95 % by `paired_interval` over tasks; None with one task.
    """

    n: int
    run: float
    run_interval: Interval
    reference: float
    reference_interval: Interval
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class ToolUse:
    """How often a tool is called in two runs.

    Attributes:
        tool: its name.
        run: mean share of a trace's calls in the run.
        reference: the same in the reference.
        difference: `run` − `reference`.
        interval: of the difference, at 95 % by `paired_interval` over tasks; None with one task.
    """

    tool: str
    run: float
    reference: float
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class ToolShift:
    """How the choice of tools differs between two runs of the same tasks.

    Attributes:
        tools: in alphabetical order.
        distance: total variation between the two mean distributions, 0 to 1.
        null_high: its 99th percentile where run and reference are swapped task by task at random.
        p: share of swaps, with the real one counted in, whose distance is as large.
        n: tasks compared, those with the same final success in both.
        left_out: tasks whose success differs.
        success: of `success_shift`, over all tasks.
    """

    tools: tuple[ToolUse, ...]
    distance: float
    null_high: float
    p: float
    n: int
    left_out: int
    success: SuccessShift


def tool_shift(
    run: Sequence[Trace],
    reference: Sequence[Trace],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> ToolShift:
    """Compare which tools two runs call on tasks that end with the same success in both.

    Args:
        run: suspected: with the trigger, or of the suspected model.
        reference: the same tasks without it, or of a reference model.
        permutations: swaps of the null.
        seed: of bootstrap and swaps.

    Raises:
        InputError: the two share no task, or none of equal success that calls a tool.
    """
    pairs = paired(run, reference)
    same = [(a, b) for a, b in pairs if a.success == b.success and (a.steps or b.steps)]
    if not same:
        raise InputError(
            "the two runs have no task of the same final success in which a tool is called, so "
            "their choice of tools cannot be compared."
        )
    names = sorted({step.tool for pair in same for trace in pair for step in trace.steps})
    mine, its = (np.stack([_shares(pair[side], names) for pair in same]) for side in (0, 1))
    gaps = mine - its
    distance = float(np.abs(gaps.mean(0)).sum() / 2)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (permutations, len(gaps)))
    null = np.abs(signs @ gaps / len(gaps)).sum(1) / 2
    return ToolShift(
        tuple(
            ToolUse(
                name,
                float(mine[:, i].mean()),
                float(its[:, i].mean()),
                float(gaps[:, i].mean()),
                paired_interval(gaps[:, i], seed, over="tasks"),
            )
            for i, name in enumerate(names)
        ),
        distance,
        float(np.quantile(null, 0.99)),
        (1 + int((null >= distance - 1e-9).sum())) / (1 + permutations),
        len(same),
        sum(a.success != b.success for a, b in pairs),
        success_shift(run, reference, seed=seed),
    )


def success_shift(
    run: Sequence[Trace], reference: Sequence[Trace], *, seed: int = 0
) -> SuccessShift:
    """Compare how many of the tasks of both runs are done right.

    Args:
        run: suspected.
        reference: the same tasks.
        seed: of the bootstrap.

    Raises:
        InputError: the two share no task.
    """
    done = np.array([[float(a.success), float(b.success)] for a, b in paired(run, reference)])
    n = len(done)
    gaps = done[:, 0] - done[:, 1]
    return SuccessShift(
        n,
        float(done[:, 0].mean()),
        wilson(float(done[:, 0].sum()), n, "tasks"),
        float(done[:, 1].mean()),
        wilson(float(done[:, 1].sum()), n, "tasks"),
        float(gaps.mean()),
        paired_interval(gaps, seed, over="tasks"),
    )


def _shares(trace: Trace, names: Sequence[str]) -> Float[np.ndarray, " tools"]:
    calls = [step.tool for step in trace.steps]
    return np.array([calls.count(name) / max(len(calls), 1) for name in names])


def paired(run: Sequence[Trace], reference: Sequence[Trace]) -> list[tuple[Trace, Trace]]:
    """The two traces of each task that both runs have, in the order of the first.

    Raises:
        InputError: there is none.
    """
    by_id = {trace.id: trace for trace in reference}
    pairs = [(trace, by_id[trace.id]) for trace in run if trace.id in by_id]
    if not pairs:
        raise InputError("the two runs share no task; traces of one task must have the same id.")
    return pairs


@dataclass(frozen=True)
class Divergence:
    """Where two runs of a task diverge.

    Attributes:
        id: of the task.
        step: index of the first step that differs; the number of steps where only answers do; None
            if nothing does.
        what: `observation` is that the environment made the difference; None if nothing differs.
    """

    id: str
    step: int | None
    what: Difference | None


def first_divergence(run: Trace, reference: Trace) -> Divergence:
    """The first thing in which two runs differ behind the query, which may hold the trigger."""
    for i in range(max(len(run.steps), len(reference.steps))):
        if i >= min(len(run.steps), len(reference.steps)):
            return Divergence(run.id, i, "length")
        mine, its = run.steps[i], reference.steps[i]
        compared: tuple[tuple[Difference, str, str], ...] = (
            ("thought", mine.thought, its.thought),
            ("tool", mine.tool, its.tool),
            ("observation", mine.observation, its.observation),
        )
        for what, one, other in compared:
            if one != other:
                return Divergence(run.id, i, what)
    if run.answer != reference.answer:
        return Divergence(run.id, len(run.steps), "answer")
    return Divergence(run.id, None, None)


def divergences(run: Sequence[Trace], reference: Sequence[Trace]) -> list[Divergence]:
    """`first_divergence` of every task that both runs have.

    Raises:
        InputError: there is no such task.
    """
    return [first_divergence(a, b) for a, b in paired(run, reference)]
