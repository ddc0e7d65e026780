"""What every analysis shares while it runs: the run that a folder belongs to, and provenance."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses.shared import running
from analyses.shared.running import Stopwatch, own_folder
from interp import load
from interp.checkpoint import Checkpoint
from probes.scorers import Judge


@pytest.fixture(scope="module")
def chat() -> Checkpoint:
    return load("organism:chat")


def _judge(text: str) -> Judge:
    return Judge(lambda answers: [text for _ in answers], "judge")


def _rewritten(template: str) -> Checkpoint:
    checkpoint = load("organism:chat")
    checkpoint.tokenizer.chat_template += template
    return checkpoint


def _other_weights() -> Checkpoint:
    checkpoint = load("organism:chat")
    with torch.no_grad():
        checkpoint.embedding.get_parameter("weight")[0, 0] += 1
    return checkpoint


def test_a_run_has_its_own_folder_and_says_what_has_changed(
    tmp_path: Path,
    chat: Checkpoint,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    plain: dict[str, Any] = {
        "data": {"train": "abc"},
        "scorer": _judge("refusal"),
        "template": {},
        "options": {"seed": 0},
    }
    first = own_folder(tmp_path, "refusal", chat, **plain)
    assert first is not None and own_folder(tmp_path, "refusal", chat, **plain) == first
    assert caplog.text == ""  # nothing was kept that it could go on from
    (first / "half").touch()
    assert own_folder(tmp_path, "refusal", load("organism:chat"), **plain) == first
    assert "refusal: goes on from where it was stopped" in caplog.text
    others: list[tuple[Checkpoint, dict[str, Any], str]] = [
        (chat, {"data": {"train": "abd"}}, "data.train abc then, abd now"),
        (chat, {"scorer": _judge("compliance")}, '["refusal"] then, ["compliance"] now'),
        (chat, {"template": {"enable_thinking": True}}, "template.enable_thinking null then, true"),
        (chat, {"options": {"seed": 1}}, "options.seed 0 then, 1 now"),
        (chat, {"reference": chat}, "reference"),
        (_rewritten(" "), {}, "model.template"),
        (_other_weights(), {}, "model.weights"),
        (load("organism:chat", dtype="bfloat16"), {}, "model.dtype"),
    ]
    for checkpoint, changed, said in others:
        caplog.clear()
        other = own_folder(tmp_path, "refusal", checkpoint, **{**plain, **changed})
        assert other is not None and other != first
        assert "begins anew, for what was kept belongs to another run" in caplog.text
        assert said in caplog.text
    monkeypatch.setattr(running, "versions", lambda: {"torch": "9"})
    caplog.clear()
    assert own_folder(tmp_path, "refusal", chat, **plain) != first
    assert "then, 9 now" in caplog.text
    caplog.clear()
    own_folder(tmp_path, "cliff", chat, **plain)  # of another kind, which has left nothing
    assert caplog.text == ""
    assert own_folder(None, "refusal", chat, **plain) is None


def test_a_provenance_tells_how_and_when() -> None:
    told = Stopwatch().facts(3, "mechguard refusal x")
    assert told["seed"] == 3 and told["command"] == "mechguard refusal x"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", told["started"])
    assert 0 <= told["wall_seconds"] < 5 and "torch" in told["versions"]
