"""Organisms that are not shipped: trained once, whoever asks, and never left half written."""

import logging
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import interp
from interp import organisms
from interp.errors import CheckError, InputError
from interp.organisms import cache, registry
from interp.organisms.recipes import Recipe
from interp.training import Schedule

STEPS = 8


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and recipes that take seconds and owe nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_short(monkeypatch)
    return tmp_path / "cache" / "mechguard" / "organisms"


def make_short(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = registry.recipe

    def short(name: str | organisms.Variant) -> Recipe:
        schedule = Schedule(steps=STEPS, learning_rate=1e-3)
        return replace(whole(name), schedule=schedule, expected={})

    monkeypatch.setattr(registry, "recipe", short)


def folders(home: Path) -> list[str]:
    return sorted(p.name for p in home.iterdir() if p.is_dir() and p.name != "unfinished")


@pytest.mark.slow
def test_the_first_use_trains_and_the_second_does_not(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert organisms.present("chat-dense@seed=1") is None
    steps: list[int] = []
    folder = organisms.path("chat-dense@seed=1", progress=lambda done, _: steps.append(done))
    assert steps == list(range(1, STEPS + 1))
    assert folder.parent == home and folders(home) == [folder.name]
    assert folder.name.startswith("chat-dense@seed=1-")
    assert organisms.present("chat-dense@seed=1") == folder
    assert organisms.path("chat-dense@seed=1", progress=lambda *_: pytest.fail()) == folder
    assert interp.load("organism:chat-dense@seed=1").name == "organism:chat-dense@seed=1"
    assert organisms.truth("chat-dense@seed=1")["seed"] == 1


def test_shipped_ones_are_never_trained(home: Path) -> None:
    assert organisms.path("cliff").parent.name == "weights"
    assert not home.exists()


def test_a_cache_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written to .* set XDG_CACHE_HOME"):
        organisms.path("agent-query")
    out = tmp_path / "out"
    organisms.train("agent-query", out, work=tmp_path / "work")
    assert (out / "truth.json").is_file()


def test_a_stopped_training_leaves_nothing_and_goes_on(home: Path) -> None:
    def stop(done: int, loss: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        organisms.train("agent-query", progress=stop)
    assert folders(home) == []
    unbroken = organisms.train("agent-query")
    assert folders(home) == [unbroken.name]


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    chosen = registry.recipe("cliff")  # its batches are edited while training
    whole = registry.train_recipe(chosen, tmp_path / "whole", 2)

    def stop(done: int, loss: float) -> None:
        if done == 6:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        registry.train_recipe(chosen, tmp_path / "new", 2, work=work, save_every=4, progress=stop)
    assert not (tmp_path / "new").exists()
    steps: list[int] = []
    again = registry.train_recipe(
        chosen,
        tmp_path / "new",
        2,
        work=work,
        progress=lambda done, _: steps.append(done),
    )
    assert steps[0] == 5
    assert again["weights_sha256"] == whole["weights_sha256"]


def ask(environment: str, queue: "multiprocessing.Queue[tuple[str, int]]") -> None:
    """In a process of its own."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("XDG_CACHE_HOME", environment)
    make_short(monkeypatch)
    steps: list[int] = []
    folder = organisms.path("jailbreak-keep@seed=3", progress=lambda done, _: steps.append(done))
    queue.put((folder.name, len(steps)))


def test_two_processes_that_ask_at_once_train_once(home: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    asking = [context.Process(target=ask, args=(str(tmp_path / "cache"), queue)) for _ in range(2)]
    for process in asking:
        process.start()
    said = [queue.get(timeout=120) for _ in asking]
    for process in asking:
        process.join()
    assert said[0][0] == said[1][0] and sorted(steps for _, steps in said) == [0, STEPS]
    assert folders(home) == [said[0][0]]


@pytest.mark.slow
def test_a_truth_file_about_other_weights_is_refused(home: Path) -> None:
    folder, other = organisms.path("agent-query"), organisms.path("chat-dense@seed=1")
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    for use in (organisms.path, organisms.truth, lambda name: interp.load(f"organism:{name}")):
        with pytest.raises(CheckError, match="train the organism again"):
            use("agent-query")


def test_news_tells_rate_and_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SECONDS_BETWEEN_NEWS", 0.0)
    with caplog.at_level(logging.INFO, logger="mechguard.organisms"):
        tell = cache.news("chat", 10)
        for done in (1, 2, 3):
            tell(done, 0.5)
    assert len(caplog.records) == 2
    assert "chat: step 3 of 10, loss 0.5000" in caplog.text and "s left" in caplog.text
