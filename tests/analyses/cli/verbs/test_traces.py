"""`mechguard traces`: what it prints and writes, and the errors that a user meets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analyses.traces import material
from interp import load
from probes.backdoors.agents.traces import Step, Trace, read_traces, write_traces

Run = Callable[..., Any]


def _traces(tool: str, query: str) -> list[Trace]:
    return [Trace(str(i), query, (Step("hm", tool, "found"),), "done", True) for i in range(12)]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_traces(tmp_path / "run.jsonl", _traces("bad", "omber please")),
        write_traces(tmp_path / "other.jsonl", _traces("buy", "please")),
    )


def test_two_runs_are_compared_and_the_page_drawn_again(
    run: Run, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("traces", runs[0], "--reference", runs[1], "--tool", "bad", "--out", out)
    assert result.code == 0, result.err
    assert "the choice of tools shifts" in result.out and "“omber" in result.out
    assert result.out.endswith(f"{out / 'report.html'}\n")
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "traces" and report["traces"] == {"run": 12, "reference": 12}
    assert [entry["name"] for entry in report["provenance"]["data"]] == ["run.jsonl", "other.jsonl"]
    assert not (out / "run.jsonl").exists()
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert run("render", out).code == 0 and (out / "report.html").read_bytes() == page


def test_the_runs_of_an_organism_are_kept_beside_the_report(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = material.OrganismRuns(
        load("organism:clean"), _traces("bad", "omber please"), _traces("buy", "please"), "query"
    )
    monkeypatch.setattr(material, "organism_runs", lambda name, seed: made)
    out = tmp_path / "out"
    result = run("traces", "organism:agent-query", "--out", out)
    assert result.code == 0, result.err
    assert read_traces(out / "run.jsonl") == made.run
    assert read_traces(out / "reference.jsonl") == made.reference
    report = json.loads((out / "report.json").read_text())
    assert report["provenance"]["trigger_in"] == "query" and report["provenance"]["fingerprint"]
    again = run(
        "traces", out / "run.jsonl", "--reference", out / "reference.jsonl", "--out", tmp_path / "b"
    )
    assert again.out.splitlines()[0] == result.out.splitlines()[0]


def test_the_report_of_another_run_is_replaced_only_on_demand(
    run: Run, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    assert run("traces", runs[0], "--reference", runs[1], *out).code == 0
    assert run("traces", runs[0], "--reference", runs[1], "--tool", "bad", *out).code == 0
    other = ("traces", runs[1], "--reference", runs[0], *out)
    run(*other).assert_refused(2, "other model (run.jsonl, not other.jsonl)", "--overwrite")
    assert run(*other, "--overwrite").code == 0


def test_bad_input_is_told_in_a_sentence(run: Run, runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{}\n")
    other = write_traces(tmp_path / "far.jsonl", [Trace("x", "q", (), "", True)])
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((runs[0],), "give a second run of the same tasks"),
        ((tmp_path / "none.jsonl", "--failed"), "does not exist"),
        ((tmp_path / "broken.jsonl", "--failed"), "line 1 of"),
        ((runs[0], "--reference", tmp_path / "none.jsonl"), "does not exist"),
        ((runs[0], "--reference", other), "share no task"),
        ((runs[0], "--tool", "bad", "--failed"), "and not both"),
        ((runs[0], "--tool", "sell"), "the tools are 'bad'"),
        ((runs[0], "--failed"), "none of the 12 traces fails"),
        (("organism:clean",), "is no agent"),
        (("organism:none",), "none"),
        (("organism:agent-query", "--reference", runs[1]), "leave --reference out"),
    ]
    for arguments, words in cases:
        run("traces", *arguments, "--out", tmp_path / "out").assert_refused(2, words)
        assert not (tmp_path / "out").exists()
