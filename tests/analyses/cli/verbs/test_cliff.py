"""`mechguard cliff`: the report on disk, and every way to get none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
QUICK = ["--limit", "8", "--max-new-tokens", "12"]


def test_writes_page_json_tables_and_examples(run: Run, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = run("cliff", "organism:cliff", "--out", out, *QUICK)
    assert result.code == 0, result.err
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        "report.json",
        "tables",
        "selected",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "cliff"
    assert result.out.splitlines() == [report["verdict"], str(out / "report.html")]
    assert report["provenance"]["command"].startswith("mechguard cliff organism:cliff --out ")
    assert "Probe along the thought" in (out / "report.html").read_text()
    assert not cache.exists() or not list(cache.iterdir())
    assert len(list((out / "selected").iterdir())) == 4


def test_requests_of_files(run: Run, tmp_path: Path) -> None:
    """Words that the organism knows; its refusals are told by phrases."""
    from interp import organisms

    files = []
    for label in ("harmful", "harmless"):
        path = tmp_path / f"{label}.txt"
        path.write_text("\n".join(p.text for p in organisms.prompts("cliff")[label][:24]) + "\n")
        files += [f"--{label}", path]
    out = tmp_path / "out"
    stop = ["--stop-text", "<stop>", "--named-heads"]
    result = run("cliff", "organism:cliff", *files, *stop, "--out", out, "--max-new-tokens", "12")
    assert result.code == 0, result.err
    report = json.loads((out / "report.json").read_text())
    assert report["provenance"]["scorer"] != "whole refusal"
    assert report["natural"]["rate"] == 0 and report["forced_stop"][3]["rate"] == 1
    assert report["suppression_heads"] == [{"layer": 2, "head": 0}]
    judged = [head for head in report["heads"] if head["ablated_refusal"] is not None]
    assert len(judged) == 1
    # A system line that the organism does not know makes no refused harmless request.
    assert any("refused harmless" in caveat for caveat in report["caveats"])


def test_what_cannot_be_done_is_refused_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    overflow = run("cliff", "organism:cliff", "--out", out, "--thinking-budget", "500")
    overflow.assert_refused(2, "500", "does not fit", "--thinking-budget")
    run("cliff", "organism:cliff", "--out", out, "--thinking-budget", "2", *QUICK).assert_refused(
        2, "no thought was closed", "--thinking-budget"
    )
    run("cliff", "organism:chat", "--out", out).assert_refused(2, "does not think")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    run("cliff", "organism:cliff", "--harmful", empty, "--out", out).assert_refused(2)
    run("cliff", "organism:cliff", "--out", empty).assert_refused(2, "is a file")
    assert not out.exists()


def test_a_judge_is_asked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mutely.py").write_text("def decide(said):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    call = ["cliff", "organism:cliff", "--limit", "4", "--out", tmp_path / "out"]
    result = run(*call, "--max-new-tokens", "12", "--judge", "mutely:decide")
    result.assert_refused(2, "mutely:decide")
    run(*call, "--judge", "nobody").assert_refused(2, "is no folder")
