"""`mechguard steer`: train and eval, and the errors that a user meets."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analyses.cli.artefacts.steer import app
from interp.errors import CheckError, InputError

CHAT = "organism:chat"


def steer(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.slow
def test_train_and_eval(tmp_path: Path) -> None:
    policy, out = tmp_path / "policy", tmp_path / "report"
    made = steer("train", CHAT, "--out", policy, "--limit", 60, "--fpr", 0.05)
    assert made.exit_code == 0, made.exception
    for told in (
        "was-plus: span",
        "gate: threshold",
        "end to end: ",
        "by pairs of verb and object",
    ):
        assert told in made.output
    assert "% of the model's." in made.output and "aimed at" not in made.output
    assert (policy / "policy.safetensors").exists()
    found = steer("eval", CHAT, "--policy", policy, "--policy", policy, "--out", out, "--limit", 8)
    assert found.exit_code == 0, found.exception
    report = json.loads((out / "report.json").read_text())
    assert [row["name"] for row in report["policies"]] == ["base", "was-plus", "was-plus (2)"]
    assert "jailbroken" in found.output and str(out / "report.html") in found.output


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "policy"
    cases: list[tuple[tuple[object, ...], str]] = [
        (("train", CHAT, "--out", out, "--method", "magic"), "there is no method 'magic'"),
        (("train", CHAT, "--out", out, "--harmful", "a.txt"), "--harmless is missing"),
        (("train", CHAT, "--out", out, "--controller", "cnn"), "is not one of linear, mlp"),
        (("train", CHAT, "--out", out, "--split", "pairs"), "give source or random"),
        (("train", CHAT, "--out", out, "--limit", 4), "needs 8"),
        (("eval", CHAT, "--policy", out, "--out", tmp_path / "r"), "policy.safetensors"),
    ]
    for args, said in cases:
        result = steer(*args)
        assert isinstance(result.exception, InputError), (args, result.exception)
        assert said in str(result.exception)
    assert not out.exists()


@pytest.mark.slow
def test_a_gate_that_tells_nothing_is_not_written(tmp_path: Path) -> None:
    result = steer("train", "organism:jailbreak-erase", "--out", tmp_path / "policy")
    assert isinstance(result.exception, CheckError)
    assert not (tmp_path / "policy").exists()
