"""`mechguard report`: every analysis on one page, by default of an organism."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def _report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["kind"] == "report" and report["format_version"] == 1
    return report


def test_without_a_model_an_organism_is_reported(run: Run, tmp_path: Path) -> None:
    result = run("report", "--out", tmp_path, "--max-sequences", "24", "--causal-sequences", "8")
    assert result.code == 0, result.err
    report = _report(tmp_path)
    assert set(report["findings"]) == {"sinks"}
    sinks = report["findings"]["sinks"]
    assert report["provenance"] == sinks["provenance"]
    assert report["verdict"] == sinks["verdict"] == result.out.splitlines()[0]
    assert sinks["provenance"]["model"] == "organism:bb-plain-3"
    assert sinks["provenance"]["bos"] is True
    assert len(sinks["domains"]) >= 2
    assert max(head["alpha_first"] for head in sinks["heads"]) > 0.5
    assert (tmp_path / "tables" / "heads.csv").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "Attention on the first token, by head" in page


def test_an_organism_by_name_brings_its_texts(run: Run, tmp_path: Path) -> None:
    quick = ["--out", tmp_path, "--max-sequences", "8", "--causal-sequences", "0"]
    result = run("report", "organism:bb-gated", *quick)
    assert result.code == 0, result.err
    heads = _report(tmp_path)["findings"]["sinks"]["heads"]
    assert all(head["gate_mean"] is not None for head in heads)
    run("report", "organism:nobody", *quick).assert_refused(2, "There is no organism 'nobody'")


def test_a_model_of_ones_own_needs_texts(run: Run, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["report", shelf / "llama", "--out", out, "--length", "12", "--causal-sequences", "0"]
    run(*call).assert_refused(2, "needs --texts FILE")
    assert not out.exists()
    assert run(*call, "--texts", shelf / "words.txt").code == 0
    assert _report(out)["findings"]["sinks"]["provenance"]["data"][0]["name"] == "words"


@pytest.mark.parametrize("model", ["llama", "bare"])
def test_the_nested_finding_is_that_of_sinks(
    run: Run, shelf: Path, tmp_path: Path, model: str
) -> None:
    quick = ["--texts", shelf / "words.txt", "--length", "12", "--causal-sequences", "2"]
    for verb in ("sinks", "report"):
        assert run(verb, shelf / model, "--out", tmp_path / verb, *quick).code == 0
    nested = _report(tmp_path / "report")["findings"]["sinks"]
    alone = json.loads((tmp_path / "sinks" / "report.json").read_text())
    for report in (nested, alone):
        for key in ("started", "wall_seconds", "command"):
            del report["provenance"][key]
    assert nested == alone


def test_out_is_looked_at_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    run("report", "--out", tmp_path / "taken").assert_refused(2, "is a file")


def test_a_checkpoint_that_chats_is_asked_too(run: Run, tmp_path: Path) -> None:
    quick = ["--max-sequences", "8", "--causal-sequences", "0", "--max-new-tokens", "12"]
    result = run("report", "organism:chat", "--out", tmp_path, *quick, "--limit", "40")
    assert result.code == 0, result.err
    report = _report(tmp_path)
    assert list(report["findings"]) == ["sinks", "refusal"]
    assert report["caveats"] == []
    assert report["findings"]["refusal"]["rates"]["harmful"]["base"]["rate"] > 0.95
    assert report["verdict"] == " ".join(f["verdict"] for f in report["findings"].values())
    page = (tmp_path / "report.html").read_text()
    assert "Refusals with the direction ablated and added" in page
    assert (tmp_path / "tables" / "candidates.csv").is_file()


def test_why_there_is_no_refusal_finding_is_a_caveat(run: Run, tmp_path: Path) -> None:
    quick = ["--max-sequences", "8", "--causal-sequences", "0", "--out", tmp_path]
    assert run("report", *quick).code == 0
    assert _report(tmp_path)["caveats"] == [
        "Refusal was not measured: the checkpoint has no chat template."
    ]
    asked = run("report", *quick, "--harmful", "x.csv", "--harmless", "y.csv")
    asked.assert_refused(2, "has no chat template, so prompts cannot be put to it")
