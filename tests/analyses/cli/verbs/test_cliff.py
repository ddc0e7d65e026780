"""`mechguard cliff`: the report on disk, and every way to get none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from analyses.cliff import training
from analyses.shared.prompts import rows_of
from interp import organisms
from interp.generation import replies
from interp.resolve import load
from probes.cliff.rows import NaturalStop

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


def test_a_scorer_is_asked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mutely.py").write_text("def decide(said):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    call = ["cliff", "organism:cliff", "--limit", "4", "--out", tmp_path / "out"]
    result = run(*call, "--max-new-tokens", "12", "--scorer", "mutely:decide")
    result.assert_refused(2, "mutely:decide")
    run(*call, "--scorer", "nobody").assert_refused(2, "is no folder")


def test_the_report_of_another_run_is_kept(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["cliff", "organism:cliff", "--out", out, "--max-new-tokens", "12", "--limit"]
    assert run(*call, "4").code == 0
    run(*call, "6").assert_refused(2, "a run with other data", "--overwrite")
    assert run(*call, "6", "--overwrite").code == 0


@pytest.mark.slow
def test_fine_tuning_on_a_sixtieth_of_the_data_restores_refusal(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    call = ["cliff", "organism:cliff", "--out", tmp_path / "out", "--max-new-tokens", "12"]
    result = run(*call, "--train", copy)
    assert result.code == 0, result.err
    cost, verdict, page, head, *labels, folder = result.out.splitlines()
    assert cost.startswith("Fine-tuning a copy on 2 of 128 harmful requests, chosen by cliff, and ")
    assert "60 steps" in cost and "GB of memory" in cost
    assert verdict.startswith("Refusal falls off a cliff") and page.endswith("report.html")
    assert "on 2 of 128 harmful requests (1.56 %, chosen by cliff)" in head
    assert "95 % Wilson" in head and folder == str(copy)
    lines = {line.split(":")[0].strip(): line for line in labels}
    assert set(lines) == {"harmful", "harmless", "alarming"}
    assert lines["harmful"].startswith("  harmful: 0 [0–0.0621] (n 58) before, 1.00 [0.938–")
    assert lines["harmful"].endswith("(n 58) after")
    for label in ("harmless", "alarming"):
        assert "before, 0 [0–" in lines[label]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["natural"]["rate"] == 0 and "trained" not in report
    # The folder is a checkpoint like any other, and it refuses.
    tuned, model = load(copy), load("organism:cliff")
    asked: list[Any] = organisms.prompts("cliff")["harmful"][:16]
    refusals = []
    for one in (model, tuned):
        said = replies(one, rows_of(one, asked, {}), max_new_tokens=40)
        refusals.append(
            [p.refusal in reply.text for p, reply in zip(asked, said, strict=True)].count(True)
        )
    assert refusals == [0, 16]
    AutoModelForCausalLM.from_pretrained(copy)
    run(*call, "--train", copy).assert_refused(2, "not an empty folder")


@pytest.mark.parametrize(
    ("copied", "words"),
    [("itself", "did not restore refusal"), ("refuser", "also more harmless and alarming ones")],
)
def test_a_copy_that_is_no_better_is_written_and_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: str, words: str
) -> None:
    monkeypatch.setattr(training, "fine_tune", lambda checkpoint, *_, **__: checkpoint)
    if copied == "refuser":
        all_refused = NaturalStop(1.0, 8, (0.68, 1.0))
        monkeypatch.setattr(training, "natural_stop", lambda *_: all_refused)
    copy = tmp_path / "copy"
    result = run("cliff", "organism:cliff", "--out", tmp_path / "out", *QUICK, "--train", copy)
    assert result.code == 1 and words in result.message
    assert "Refusal of held-out requests" in result.out and (copy / "config.json").exists()
    assert (tmp_path / "out" / "report.json").exists()
