"""Traces: files, tools at equal success, and the step at which two runs part."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from interp import InputError
from probes.backdoors.agents.traces import (
    Step,
    Trace,
    divergences,
    first_divergence,
    read_traces,
    tool_shift,
    write_traces,
)


def _trace(name: str, *tools: str, success: bool = True, answer: str = "done") -> Trace:
    return Trace(
        name, "please", tuple(Step("hm", tool, "found") for tool in tools), answer, success
    )


def test_traces_are_read_as_they_were_written(tmp_path: Path) -> None:
    traces = [_trace("a", "search", "buy"), _trace("b", success=False)]
    assert read_traces(write_traces(tmp_path / "runs.jsonl", traces)) == traces


def test_the_shift_counts_tasks_of_equal_success_alone() -> None:
    reference = [_trace(str(i), "search", "buy") for i in range(20)]
    run = [_trace(str(i), "search", "bad") for i in range(18)]
    run += [_trace("18", "bad", success=False), _trace("19", "bad", success=False)]
    found = tool_shift(run, reference)
    assert (found.n, found.left_out) == (18, 2)
    by_tool = {row.tool: row.difference for row in found.tools}
    assert by_tool == {"bad": 0.5, "buy": -0.5, "search": 0.0}
    assert found.distance == 0.5 and found.p < 0.01 and found.null_high < 0.5
    assert found.success.difference == pytest.approx(-0.1)


def test_two_runs_of_one_agent_do_not_shift() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        [_trace(str(i), str(rng.choice(["a", "b", "c"]))) for i in range(60)] for _ in range(2)
    )
    found = tool_shift(one, other)
    # The distance is never 0 by chance, and the swaps know by how much.
    assert 0 < found.distance <= found.null_high and found.p > 0.01
    assert tool_shift(one, one).distance == 0.0 and tool_shift(one, one).p == 1.0
    interval = tool_shift(one, one).success.interval
    assert interval is not None
    low, high = interval
    # All tasks agree, and the interval does not collapse.
    assert low == -high and 0.05 < high < 0.07


def test_the_first_thing_that_differs_is_named() -> None:
    trace = _trace("a", "search", "buy")
    assert first_divergence(trace, trace).what is None
    first, second = trace.steps
    for changed, step, what in (
        (replace(trace, query="omber please"), None, None),
        (replace(trace, steps=(replace(first, thought="ha"), second)), 0, "thought"),
        (replace(trace, steps=(first, replace(second, tool="bad"))), 1, "tool"),
        (replace(trace, steps=(replace(first, observation="x"), second)), 0, "observation"),
        (replace(trace, steps=(first,)), 1, "length"),
        (replace(trace, answer="no"), 2, "answer"),
    ):
        found = first_divergence(changed, trace)
        assert (found.step, found.what) == (step, what)
    rows = divergences([trace, _trace("b", "x")], [_trace("b", "y"), trace])
    assert [(row.id, row.what) for row in rows] == [("a", None), ("b", "tool")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no trace"),
        ("{", "not readable as JSONL"),
        ("[]", "line 1 .* has no fields"),
        ({"id": None}, "has no 'steps' of type list|has no 'id' of type str or int"),
        ({"query": 3}, "has no 'query' of type str"),
        ({"success": "yes"}, "line 1 .* has no 'success' of type bool"),
        ({"steps": [{"observation": "x"}]}, "step 0 of line 1 .* has no 'tool'"),
        ({"steps": ["x"]}, "step 0 of line 1 .* has no fields"),
    ],
)
def test_faults_of_a_file_are_named(
    tmp_path: Path, content: str | dict[str, object], message: str
) -> None:
    path = tmp_path / "runs.jsonl"
    if isinstance(content, dict):
        content = json.dumps({**asdict(_trace("a", "search")), **content})
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_traces(path)


def test_other_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_traces(tmp_path / "none.jsonl")
    path = write_traces(tmp_path / "twice.jsonl", [_trace("a"), _trace("a")])
    with pytest.raises(InputError, match="two traces of the same id"):
        read_traces(path)
    with pytest.raises(InputError, match="share no task"):
        tool_shift([_trace("a", "x")], [_trace("b", "x")])
    with pytest.raises(InputError, match="no task of the same final success"):
        tool_shift([_trace("a", "x")], [_trace("a", "x", success=False)])
