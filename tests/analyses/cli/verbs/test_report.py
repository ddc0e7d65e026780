"""`mechguard report`: every analysis on one page, by default of an organism."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analyses.registry import every_analysis
from analyses.shared.finding import Finding
from interp.model.sites import Site
from interp.organisms import prompts
from interp.resolve import load
from steering import was_plus
from steering.runtime.gates import LogisticGate

Run = Callable[..., Any]
QUICK = ("--max-sequences", "8", "--causal-sequences", "0", "--max-new-tokens", "12")


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
    assert (tmp_path / "tables" / "sinks" / "heads.csv").is_file()
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


def test_reports_of_other_runs_are_kept(run: Run, shelf: Path, tmp_path: Path) -> None:
    texts = ("--texts", shelf / "words.txt", "--length", "12", "--causal-sequences", "0")
    call = ("report", shelf / "llama", "--out", tmp_path, *texts)
    assert run(*call).code == 0
    assert run(*call, "--seed", "1").code == 0
    kept = (tmp_path / "report.json").read_bytes()
    alone = ("sinks", shelf / "llama", "--out", tmp_path, *texts)
    run(*alone).assert_refused(2, "a run with other analysis (report, not sinks)", "--overwrite")
    other = ("report", shelf / "bare", "--out", tmp_path, *texts)
    run(*other).assert_refused(2, "a run with other model", "--overwrite")
    assert (tmp_path / "report.json").read_bytes() == kept
    assert run(*other, "--overwrite").code == 0
    assert _report(tmp_path)["provenance"]["model"] == str(shelf / "bare")


def test_what_the_budget_leaves_no_time_for_is_listed(run: Run, tmp_path: Path) -> None:
    call = ("report", "organism:chat", "--out", tmp_path, *QUICK)
    run(*call, "--minutes", "0").assert_refused(2, "0 minutes leaves no time")
    assert run(*call, "--minutes", "0.001").code == 0
    report = _report(tmp_path)
    assert list(report["findings"]) == ["sinks"]
    late = "the budget of 0.001 minutes was used up; raise it with --minutes"
    assert report["not_measured"]["refusal"] == report["not_measured"]["backdoor"] == late


@pytest.fixture
def without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """`report` without the search for a trigger, which uses up its budget."""
    kept = tuple(
        replace(one, in_report=None) if one.kind == "backdoor" else one for one in every_analysis()
    )
    monkeypatch.setattr("analyses.whole_report.every_analysis", lambda: kept)


@pytest.mark.slow
@pytest.mark.usefixtures("without_search")
def test_a_checkpoint_that_chats_is_asked_too(run: Run, tmp_path: Path) -> None:
    quick = ["--max-sequences", "8", "--causal-sequences", "0", "--max-new-tokens", "12"]
    result = run("report", "organism:chat", "--out", tmp_path, *quick, "--limit", "40")
    assert result.code == 0, result.err
    report = _report(tmp_path)
    assert list(report["findings"]) == ["sinks", "refusal"]
    assert report["findings"]["refusal"]["rates"]["harmful"]["base"]["rate"] > 0.95
    assert report["verdict"] == " ".join(f["verdict"] for f in report["findings"].values())
    page = (tmp_path / "report.html").read_text()
    assert "Refusals with the direction ablated and added" in page
    assert (tmp_path / "tables" / "refusal" / "candidates.csv").is_file()


def test_why_something_was_not_measured_is_a_caveat(run: Run, tmp_path: Path) -> None:
    quick = ["--max-sequences", "8", "--causal-sequences", "0", "--out", tmp_path]
    assert run("report", *quick).code == 0
    report = _report(tmp_path)
    absent = report["not_measured"]
    assert [*report["findings"], *absent] == [one.kind for one in every_analysis()]
    assert absent["refusal"] == "no chat template; name one with --chat-template"
    (caveat,) = report["caveats"]
    assert caveat.startswith("Not measured: refusal (no chat template; name one with")
    asked = run("report", *quick, "--harmful", "x.csv", "--harmless", "y.csv")
    asked.assert_refused(2, "x.csv does not exist")


def test_prompts_for_a_model_that_does_not_chat_are_refused(run: Run, tmp_path: Path) -> None:
    for name in ("harmful", "harmless"):
        (tmp_path / f"{name}.txt").write_text("polish old lamp\n")
    given = ("--harmful", tmp_path / "harmful.txt", "--harmless", tmp_path / "harmless.txt")
    out = ("--out", tmp_path / "out")
    run("report", *out, *given).assert_refused(2, "no chat template, so prompts cannot be put")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that suits organism:chat."""
    checkpoint = load("organism:chat")
    vector = torch.randn(1, checkpoint.anatomy.width, generator=torch.Generator().manual_seed(0))
    gate = LogisticGate([Site("resid_post", 0)], vector, 0.0, 0.5, position=-1)
    made = was_plus([Site("resid_post", 1)], vector, gate, strength=0.3)
    folder = tmp_path_factory.mktemp("policy")
    made.bound(checkpoint).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("without_search")
def test_policies_are_measured_as_steer_eval_does(run: Run, policy: Path, tmp_path: Path) -> None:
    both = ["--policy", policy, "--policy", policy, "--limit", "16"]
    call = ["report", "organism:chat", *both, "--out", tmp_path / "report", *QUICK]
    assert (result := run(*call)).code == 0, result.err
    alone = ["steer", "eval", "organism:chat", *both, "--out", tmp_path / "alone"]
    assert run(*alone, "--max-new-tokens", "12").code == 0
    report = _report(tmp_path / "report")
    assert list(report["findings"]) == ["sinks", "refusal", "steering"]
    nested = report["findings"]["steering"]
    eval_report = json.loads((tmp_path / "alone" / "report.json").read_text())
    assert report["verdict"].endswith(nested["verdict"]) and nested["verdict"] in result.out
    for one in (nested, eval_report):
        for key in ("started", "wall_seconds", "command"):
            del one["provenance"][key]
        for row in one["policies"]:
            del row["throughput_ratio"]
    assert nested == eval_report
    assert [row["name"] for row in nested["policies"]] == ["base", "was-plus", "was-plus (2)"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "What is refused under each policy" in page
    # No finding's table has taken the place of another's.
    linked = re.findall(r'href="(tables/[^"]+)"', page)
    assert {"tables/steering/policy_doses.csv", "tables/refusal/dose_response.csv"} <= set(linked)
    assert all((tmp_path / "report" / name).is_file() for name in linked)
    doses = pd.read_csv(tmp_path / "report" / "tables" / "refusal" / "dose_response.csv")
    assert len(doses) == len(report["findings"]["refusal"]["dose_response"])


@pytest.mark.usefixtures("without_search")
def test_prompts_of_files_are_put_to_the_policies(
    run: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"kind": "other", "verdict": "", "provenance": {}, "caveats": []}
    monkeypatch.setattr("analyses.refusal.run.refusal", lambda *_, **__: Finding(other))
    own = prompts("chat", "train")
    for name in ("harmful", "harmless", "alarming"):
        lines = [prompt.messages[-1]["content"] for prompt in own[name][:60]]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    given = [
        *("--harmful", tmp_path / "harmful.txt", "--harmless", tmp_path / "harmless.txt"),
        *("--over-refusal", tmp_path / "alarming.txt", "--jailbroken", tmp_path / "alarming.txt"),
    ]
    call = ["report", "organism:chat", "--policy", policy, "--out", tmp_path / "out", *QUICK]
    assert (result := run(*call, *given)).code == 0, result.err
    rates = _report(tmp_path / "out")["findings"]["steering"]["policies"][0]["rates"]
    assert {name: one["n"] for name, one in rates.items()} == dict.fromkeys(rates, 60)


def test_policies_that_cannot_be_measured_are_refused_before_the_long_part(
    run: Run, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the sink analysis was begun")

    monkeypatch.setattr("analyses.sinks.run.sinks", reached)
    (tmp_path / "some.txt").write_text("polish old lamp\n")
    out, some = ("--out", tmp_path / "out"), tmp_path / "some.txt"
    cases: list[tuple[tuple[object, ...], str]] = [
        (("organism:jailbreak-keep", "--policy", policy), "organism:chat"),
        (("organism:bb-plain", "--policy", policy), "has no chat template"),
        (("organism:chat", "--policy", tmp_path), "policy.safetensors"),
        (("organism:chat", "--jailbroken", some), "--policy DIR"),
        (("organism:chat", "--allow", "fingerprint"), "--policy DIR"),
        (("organism:chat", "--policy", policy, "--jailbroken", some), "over-refusal ones on the"),
        (("organism:chat", "--harmful", some), "--harmless is missing"),
    ]
    for arguments, said in cases:
        run("report", *arguments, *out).assert_refused(2, said)
    assert not (tmp_path / "out").exists()
    with pytest.raises(AssertionError, match="was begun"):
        run("report", *cases[0][0], "--allow", "fingerprint", *out)
