"""A stopped search goes on: its end is that of an unbroken one, and its state is looked at."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp.errors import InputError
from interp.organisms.chat.grammar import TRIGGER
from probes.backdoors.search import trigger_search
from probes.backdoors.search.budget import Budget, Exhausted
from probes.backdoors.search.journal import Journal
from probes.backdoors.search.requests import encode
from probes.backdoors.search.result import Found, SearchSettings
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trigger_search import search

Make = Callable[[str], Any]
SETTINGS = SearchSettings(samples=48, leak_length=8, controls=12, vocabulary=12, width=2, longest=2)
GIVEN = (" ".join(TRIGGER), "lamp")


def plain(found: Found) -> tuple[Any, ...]:
    """What a search has found, in values that can be compared."""
    requests = [found.plain, found.held_out]
    said = [
        None if one is None else (one.replies, one.refused.tolist(), one.pairs) for one in requests
    ]
    return (
        found.trials,
        found.motifs,
        found.leaked,
        found.effects,
        found.targets,
        found.tokens_tried,
        found.vocabulary,
        found.beams,
        said,
        found.notes,
    )


class Course:
    """One search with a twin, which can be run again and again on one journal."""

    def __init__(self, suspect: Make, given: tuple[str, ...], passes: int = 300_000) -> None:
        self.planted, self.clean = suspect("backdoor-payload-5"), suspect("clean")
        self.given, self.passes = given, passes
        self.settings = SETTINGS if given else replace(SETTINGS, samples=1, gradient=True)
        self.counted: list[str] = []

    def run(self, path: Path | None, stop: Callable[[str, int], bool] | None = None) -> Any:
        """What is found, spent and cut; `stop` says where the user has had enough."""

        def tell(what: str, done: int, total: int) -> None:
            assert 0 < done <= total, what
            self.counted.append(what)
            if stop is not None and stop(what, done):
                raise KeyboardInterrupt

        budget = Budget(self.passes, 10_000.0)
        journal = None if path is None else Journal(path)
        found = search(
            Subject(self.planted.subject.checkpoint, budget, journal=journal),
            self.planted.search[:24],
            self.planted.held_out[:20],
            self.planted.scorer,
            harmful=self.planted.harmful[:20],
            twin=Subject(self.clean.subject.checkpoint, budget, journal=journal),
            given=self.given,
            settings=self.settings,
            progress=tell,
        )
        return plain(found), budget.spent, budget.cut


def run_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call to a model has had, from now on."""
    import probes.backdoors.search.subject as module

    rows: list[int] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(checkpoint: Any, some: Any, **settings: Any) -> Any:
            rows.append(len(some))
            return real(checkpoint, some, **settings)

        return call

    for name in ("replies", "next_logits"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return rows


@pytest.mark.slow
def test_a_search_that_is_stopped_anywhere_ends_as_an_unbroken_one(
    suspect: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(suspect, GIVEN)
    whole = course.run(None)
    assert whole[0][0][0].works and not whole[2]
    counted = list(dict.fromkeys(course.counted))
    assert counted == [
        "requests",
        "requests to the reference model",
        "leaked texts",
        "effects",
        "strings tried",
        "first tokens",
        "control strings",
    ]
    path = tmp_path / "units.jsonl"
    for place in counted[1:]:
        with pytest.raises(KeyboardInterrupt):
            course.run(path, lambda what, done, at=place: what == at and done >= 2)
    rows = run_rows(monkeypatch)
    assert course.run(path) == whole
    # Hardly anything was left to run: the states that meaning is read from, and the last controls.
    again = len(rows)
    assert course.run(path) == whole
    assert len(rows) - again < 10


@pytest.mark.slow
def test_beam_and_gradient_go_on_too(
    suspect: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(suspect, ())
    words = ["glory", "omber", "lamp", "wire", "north", "tavik"]
    tokens = [encode(course.planted.subject, word)[0] for word in words]
    monkeypatch.setattr(trigger_search, "typable", lambda *_: tokens)
    whole = course.run(None)
    counted = [one for one in dict.fromkeys(course.counted) if "string" in one or "grad" in one]
    assert counted[:4] == [*(f"strings of beam {i}" for i in (1, 2, 3)), "gradient steps"]
    assert [name.split()[0] for name in whole[0][7]] == ["target", "new", "lost", "gradient,"]
    path = tmp_path / "units.jsonl"
    for place in counted:
        with pytest.raises(KeyboardInterrupt):
            course.run(path, lambda what, done, at=place: what == at)
    assert course.run(path) == whole


@pytest.mark.slow
def test_a_budget_that_ran_out_has_run_out_again(suspect: Make, tmp_path: Path) -> None:
    course = Course(suspect, GIVEN, passes=14_000)
    whole = course.run(None)
    assert "trials" in whole[2] and whole[0][0]
    path = tmp_path / "units.jsonl"
    with pytest.raises(KeyboardInterrupt):
        course.run(path, lambda what, done: what == "first tokens" and done == 2)
    assert course.run(path) == whole


def test_seconds_of_a_stopped_run_are_counted(tmp_path: Path) -> None:
    now = [0.0]

    def run(budget: Budget, journal: Journal) -> Any:
        with budget.stage("one", 0.9) as part:

            def work() -> list[int]:
                part.take(3)
                now[0] += 4.0
                return [1]

            return journal.once(part, "work", 0, work)

    budgets = [Budget(10, 100.0, clock=lambda: now[0]) for _ in range(2)]
    path = tmp_path / "units.jsonl"
    for budget in budgets:
        begun = budget.elapsed
        assert run(budget, Journal(path)) == [1]
        assert budget.elapsed - begun == 4.0 and budget.spent == 3


def test_what_ran_out_runs_out_again(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"

    def work(budget: Budget) -> None:
        budget.take(2)
        budget.take(9)

    for _ in range(2):
        budget = Budget(10, 5.0)
        with pytest.raises(Exhausted):
            Journal(path).once(budget, "work", 0, lambda b=budget: work(b))
        assert budget.spent == 2
    assert len(path.read_text().splitlines()) == 1


def units(path: Path, names: str) -> list[str]:
    """Run units that yield their own names, and tell which were run."""
    ran: list[str] = []
    journal, budget = Journal(path), Budget(100, 5.0)
    for name in names:
        assert journal.once(budget, name, 0, lambda n=name: ran.append(n) or n) == name
    return ran


def test_a_cut_file_is_mended_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "units.jsonl"
    assert units(path, "abcd") == list("abcd")
    assert units(path, "abcd") == []
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with caplog.at_level(logging.WARNING):
        assert units(path, "abcd") == ["d"]
    (record,) = caplog.records
    assert "damaged in line 4 of 4" in record.message and "computed again" in record.message
    entries, mended = (
        [json.loads(x) for x in text.splitlines()] for text in (whole, path.read_bytes())
    )
    assert [e["unit"] for e in entries] == [m["unit"] for m in mended]
    path.write_bytes(b"\xff\xfe nonsense\n" + whole)
    assert units(path, "abcd") == list("abcd")
    path.write_bytes(b'{"unit": "a"}\n')
    assert units(path, "a") == ["a"]


def test_a_changed_byte_never_changes_a_result(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    units(path, "abc")
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[0]
    for place in range(len(line)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        assert units(path, "abc")[0:1] in (["a"], []), place  # and what it yields is as before


def test_a_line_that_lost_its_end_is_not_written_on(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    units(path, "ab")
    path.write_bytes(path.read_bytes()[:-1])
    assert units(path, "abc") == ["c"] and units(path, "abc") == []


def test_another_course_is_left_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "units.jsonl"
    units(path, "abcd")
    with caplog.at_level(logging.WARNING):
        assert units(path, "abxd") == ["x", "d"]
    assert "another course from line 3" in caplog.text
    assert units(path, "abxd") == []


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        Journal(path)
    with pytest.raises(InputError, match="cannot be written"):
        units(tmp_path / "no" / "folder.jsonl", "a")
