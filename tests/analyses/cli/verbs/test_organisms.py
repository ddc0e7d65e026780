"""`mechguard organisms`: list, train, verify, and the errors that a user meets."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp import organisms
from interp.organisms import registry

Run = Callable[..., Any]


def test_list_shows_all_and_trains_nothing(run: Run, tmp_path: Path) -> None:
    result = run("organisms", "list")
    assert result.code == 0, result.err
    for name in organisms.names():
        assert name in result.out
    assert "not yet" in result.out and "373,728" in result.out
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_train_and_verify(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "made"
    result = run("organisms", "train", "bb-plain", "--out", out, "--seed", "1")
    assert result.code == 0, result.err
    assert result.out.strip().endswith(str(out))
    assert json.loads((out / "truth.json").read_text())["seed"] == 1
    result = run("organisms", "verify", out)
    assert result.code == 0 and "bos_attention" in result.out


def test_verify_shows_cases_and_intervals(run: Run) -> None:
    result = run("organisms", "verify", "backdoor-payload-5")
    assert result.code == 0, result.err
    line = next(line for line in result.out.splitlines() if line.split()[:1] == ["asr"])
    assert line.split() == ["asr", "1.0000", "232", "0.984", "to", "1.000", "≥", "0.98"]


@pytest.mark.slow
def test_a_miss_is_an_error(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(organisms.path("chat"), folder)
    truth = json.loads((folder / "truth.json").read_text())
    truth["measured"]["exact_plain_harmful"] = 0.5
    (folder / "truth.json").write_text(json.dumps(truth))
    run("organisms", "verify", folder).assert_refused(1, "exact_plain_harmful is 1")


def test_weights_of_another_truth(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(organisms.path("chat"), folder)
    shutil.copy(organisms.path("cliff") / "model.safetensors", folder)
    run("organisms", "verify", folder).assert_refused(1, "its truth file is about")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "nobody"), ("There is no organism 'nobody'", "chat")),
        (("verify", "nobody"), ("There is no organism 'nobody'",)),
        (("train", "chat", "--poison", "5"), ("has no backdoor",)),
        (("train", "backdoor-two-part", "--poison", "60"), ("at most 20",)),
        (("train", "inert", "--of", "chat"), ("no backdoor",)),
        (("train", "chat", "--seed", "-1"), ("negative",)),
        (("train", "chat@seed=1"), ("--seed",)),
    ],
)
def test_bad_input(run: Run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    run("organisms", *arguments).assert_refused(2, *words)


def test_an_interrupted_training_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "train_model", interrupt)
    result = run("organisms", "train", "chat-dense", "--out", tmp_path / "out")
    assert result.code == 130 and "interrupted" in result.message
    assert "goes on" in result.message
    assert not (tmp_path / "out").exists()


def test_a_cache_that_cannot_be_written_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    run("doctor", "organism:agent-query").assert_refused(2, "cannot be written to", "--out DIR")
