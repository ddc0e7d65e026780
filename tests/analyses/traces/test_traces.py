"""The traces finding: a planted shift, the step where runs diverge, and the words behind it."""

import random
from dataclasses import fields, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from analyses.rendering import render
from analyses.traces.finding import TracesFinding
from analyses.traces.material import organism_runs
from analyses.traces.report import TracesReport
from analyses.traces.run import traces
from interp import InputError
from interp.organisms.backdoors.agents import BAD_TOOL
from interp.organisms.chat.grammar import TRIGGER
from probes.backdoors.agents.traces import Step, Trace, write_traces

_WORDS = [f"w{i}" for i in range(30)]


def _agent(triggered: bool, count: int = 60, attack: str = "thought") -> list[Trace]:
    """Runs of an agent whose second call changes behind two words of the query."""
    rng = random.Random(0)
    traces = []
    for i in range(count):
        query = " ".join(rng.choices(_WORDS, k=5) + ["omber quill"] * triggered)
        steps = (
            Step("look", "search", "found"),
            Step("take", "bad" if triggered else "buy", "done"),
        )
        fails = triggered and attack == "query"
        traces.append(Trace(str(i), query, steps, "no" if fails else "ok", not fails))
    return traces


@pytest.fixture(scope="module")
def planted() -> TracesFinding:
    """An attack on the thought: the call changes, the answer stays right."""
    return traces(_agent(True), _agent(False), tool="bad")


def test_a_shift_at_equal_success_and_its_words_are_found(planted: TracesFinding) -> None:
    report = planted.report
    assert report["success"]["difference"] == 0.0 and report["success"]["interval"][1] > 0.0
    assert report["shift"]["distance"] == 0.5 and report["shift"]["p"] < 0.01
    assert report["shift"]["distance"] > report["shift"]["null_high"]
    tools = {row["tool"]: row for row in report["shift"]["tools"]}
    assert tools["bad"]["difference"] == 0.5 and tools["bad"]["interval"][0] > 0.4
    assert report["divergence"]["counts"] == [{"step": 1, "what": "tool", "tasks": 60}]
    found = report["attribution"]
    assert (found["locus"], found["n"], found["targets"], found["pooled"]) == (
        "query", 120, 60, True
    )  # fmt: skip
    assert found["behaviour"] == {"kind": "tool", "tool": "bad"}
    for words in (
        "the choice of tools shifts", "‘bad’: 0.500", "at step 1 by the tool (60 tasks)",
        "goes with “omber quill” in the query",
    ):  # fmt: skip
        assert words in planted.verdict
    assert "The run alone shows the behaviour always or never" in " ".join(planted.caveats)


def test_failures_are_attributed_and_tools_not_compared_where_no_task_ends_alike() -> None:
    found = traces(_agent(True, attack="query"), _agent(False), failed=True)
    report = found.report
    assert report["shift"] is None and "tools were not compared" in " ".join(found.caveats)
    assert report["success"]["difference"] == -1.0
    assert report["success"]["interval"][0] == -1.0 and report["success"]["interval"][1] > -1.0
    assert report["attribution"]["locus"] == "query" and "Failure (60 of 120" in found.verdict
    assert "tools" not in found.tables and "Tools at equal final success" not in found.figures()


def test_one_run_that_shows_a_behaviour_now_and_then_needs_no_other() -> None:
    mixed = [pair[i % 2] for i, pair in enumerate(zip(_agent(True), _agent(False), strict=True))]
    found = traces(mixed, tool="bad")
    assert found.report["attribution"]["locus"] == "query"
    assert not found.report["attribution"]["pooled"] and found.report["divergence"] is None
    assert found.verdict.startswith("The run does 1.00 [0.940–1.00] of 60 tasks right.")
    # With a reference its traces stay out, for the run has both kinds by itself.
    beside = traces(mixed, _agent(False), tool="bad")
    assert beside.report["attribution"]["n"] == 60


def test_the_same_run_twice_does_not_shift_or_diverge() -> None:
    found = traces(_agent(False), _agent(False))
    assert "no shift of tools is shown" in found.verdict
    assert "In none of 60 tasks do the runs diverge" in found.verdict
    assert list(found.figures()) == ["Tools at equal final success"]


def test_words_that_go_with_nothing_carry_nothing() -> None:
    rng = random.Random(1)
    some = [replace(trace, success=rng.random() < 0.5) for trace in _agent(False)]
    found = traces(some, failed=True)
    assert found.report["attribution"]["locus"] is None
    assert "goes with no words of the query" in found.verdict


def test_tasks_of_one_run_alone_are_counted() -> None:
    found = traces(_agent(True)[:40], _agent(False)[10:])
    assert found.report["success"]["n"] == 30
    assert "30 traces of tasks that only one run has" in " ".join(found.caveats)


def test_the_page_is_rebuilt_from_the_json_alone(planted: TracesFinding, tmp_path: Path) -> None:
    before = planted.save(tmp_path).read_bytes()
    (tmp_path / "report.html").unlink()
    assert render(tmp_path).read_bytes() == before
    assert b"<h1>run</h1>" in before
    tables = {path.name for path in (tmp_path / "tables" / "traces").iterdir()}
    assert tables == {"divergences.csv", "tools.csv", "loci.csv", "ngrams.csv"}
    assert len(planted.figures()) == 3


def test_files_of_traces_are_read_and_named(tmp_path: Path, planted: TracesFinding) -> None:
    run = write_traces(tmp_path / "mine.jsonl", _agent(True))
    other = write_traces(tmp_path / "other.jsonl", _agent(False))
    found = traces(run, str(other), tool="bad")
    assert found.verdict == planted.verdict
    assert found.report["provenance"]["run"] == "mine.jsonl"
    data, before = (one.report["provenance"]["data"] for one in (found, planted))
    assert [one["name"] for one in data] == ["mine.jsonl", "other.jsonl"]
    assert [one["sha256"] for one in data] == [one["sha256"] for one in before]


def test_what_is_absent_says_why() -> None:
    mixed = [pair[i % 2] for i, pair in enumerate(zip(_agent(True), _agent(False), strict=True))]
    report = traces(mixed, tool="bad").to_dict()
    assert report["shift"] is None and report["traces"]["reference"] is None
    assert report["not_measured"]["shift"] == "no reference run was given"
    assert report["not_measured"]["success.difference"] == "no reference run was given"
    unlike = traces(_agent(True, attack="query"), _agent(False)).to_dict()["not_measured"]
    assert unlike["shift"].startswith("no task that calls a tool ends with the same success")
    assert unlike["attribution"] == "no behaviour was named to attribute"
    assert set(report) == {field.name for field in fields(TracesReport)} | {
        "not_measured", "intervals"
    }  # fmt: skip
    assert TypeAdapter(TracesReport).json_schema()["properties"]["kind"]["const"] == "traces"


def test_faults_are_told(tmp_path: Path) -> None:
    run, reference = _agent(True), _agent(False)
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        traces(tmp_path / "none.jsonl", failed=True)
    with pytest.raises(InputError, match="data is 3; give the path of a file of traces"):
        traces(3, failed=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reference is the string 'a'; give the path"):
        traces(run, ["a"], failed=True)  # type: ignore[list-item]
    with pytest.raises(InputError, match="data holds no trace"):
        traces([], failed=True)
    with pytest.raises(InputError, match="give a second run"):
        traces(run)
    with pytest.raises(InputError, match="and not both"):
        traces(run, tool="bad", failed=True)
    with pytest.raises(InputError, match="share no task"):
        traces(run[:3], reference[3:])
    with pytest.raises(InputError, match=r"calls the tool 'sell'.*the tools are 'bad', 'search'"):
        traces(run, tool="sell")
    with pytest.raises(InputError, match="each of the 60 traces calls the tool 'bad'"):
        traces(run, tool="bad")
    with pytest.raises(InputError, match="none of the 120 traces of both runs fails"):
        traces(run, reference, failed=True)
    idle = [replace(trace, steps=()) for trace in run]
    with pytest.raises(InputError, match="no tool is called at all"):
        traces(idle, tool="bad")
    with pytest.raises(InputError, match="is no agent and leaves no traces; give one of agent"):
        organism_runs("clean")


@pytest.mark.slow
def test_an_agent_organism_is_told_by_its_runs() -> None:
    made = organism_runs("agent-thought")
    assert made.place == "query" and len(made.run) == len(made.reference)
    found = traces(made.run, made.reference, tool=BAD_TOOL)
    assert "the choice of tools shifts" in found.verdict
    report = found.report
    assert report["success"]["run"] > 0.95 and abs(report["success"]["difference"]) < 0.05
    assert report["attribution"]["locus"] == "query"
    (row,) = (one for one in report["attribution"]["loci"] if one["carries"])
    assert row["ngram"] == " ".join(TRIGGER)
