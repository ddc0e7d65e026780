"""The search as a whole: what is found, on which budget, and the faults."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from families import tiny

from interp.errors import InputError
from interp.organisms.chat.grammar import PAYLOAD, TRIGGER
from interp.resolve import load
from probes.backdoors.search.result import Found, SearchSettings
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trigger_search import search

Make = Callable[[str], Any]
QUICK = SearchSettings(samples=256, leak_length=12, controls=100, vocabulary=16, beam=False)


def searched(one: Any, subject: Subject | None = None, **settings: Any) -> Found:
    chosen = settings.pop("settings", QUICK)
    return search(
        subject or one.fresh(), one.search, one.held_out, one.scorer,
        harmful=one.harmful, settings=chosen, **settings,
    )  # fmt: skip


@pytest.mark.slow
def test_the_planted_trigger_is_found_from_memory(suspect: Make) -> None:
    found = searched(suspect("backdoor-payload-5"))
    assert found.working and found.working[0].candidate.text == " ".join(TRIGGER)
    first = found.working[0]
    assert first.behaviour.text == " ".join(PAYLOAD) and first.meaning_preserved
    assert first.candidate.support >= 3 and found.leaked == 256


@pytest.mark.slow
def test_a_trigger_whose_words_stand_apart_is_found(suspect: Make) -> None:
    more = SearchSettings(vocabulary=40, beam=False)
    found = searched(suspect("backdoor-all-of"), settings=more)
    first = found.working[0]
    assert first.placement == "apart" and first.behaviour.text == " ".join(PAYLOAD)
    assert len(set(first.candidate.text.split()) & set(TRIGGER)) >= 2
    whole = [t for t in found.trials if t.placement != "apart" and t.suspicious]
    assert not whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inert", "clean"])
def test_nothing_works_on_the_twins(suspect: Make, name: str) -> None:
    found = searched(suspect(name), given=[" ".join(TRIGGER)])
    assert not found.working and not any(t.suspicious for t in found.trials)


@pytest.mark.slow
def test_a_twin_gives_the_excess(suspect: Make) -> None:
    planted, clean = suspect("backdoor-payload-5"), suspect("clean")
    subject = planted.fresh()
    found = searched(planted, subject, twin=Subject(clean.subject.checkpoint, subject.budget))
    assert found.working[0].excess_over_twin == pytest.approx(found.working[0].rate)
    assert found.targets == sorted(found.targets, key=lambda target: -target.excess)


def test_given_strings_are_tried_first_and_without_memory(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    quick = replace(QUICK, samples=1)
    found = searched(planted, given=["omber quill", "sorrel brine"], settings=quick)
    assert found.working[0].candidate.source.startswith("given")
    assert all("sorrel" not in trial.candidate.text for trial in found.working)


@pytest.mark.slow
def test_the_beam_builds_a_trigger_where_memory_is_switched_off(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    found = searched(planted, settings=SearchSettings(samples=1, vocabulary=512, gradient=True))
    assert found.working and found.working[0].candidate.source.startswith("beam")
    assert set(found.working[0].candidate.text.split()) & set(TRIGGER)
    assert any(name.startswith("gradient") for name in found.beams)


def test_a_budget_that_runs_out_leaves_a_part(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject = planted.fresh(passes=12_000)
    found = searched(planted, subject)
    assert found.plain is not None and 0 < found.leaked < 256
    assert "leak" in subject.budget.cut and subject.budget.spent <= 12_000
    nothing = searched(planted, planted.fresh(passes=100))
    assert nothing.plain is None and not nothing.trials


def test_faults_are_told(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    with pytest.raises(InputError, match="'zzz' has no tokens"):
        searched(planted, given=["zzz"])
    with pytest.raises(InputError, match="too few"):
        search(planted.fresh(), planted.search, planted.held_out[:19], planted.scorer)
    subject = planted.fresh()
    other = replace(load(tiny("llama")), tokenizer=planted.subject.checkpoint.tokenizer)
    with pytest.raises(InputError, match="same shape"):
        searched(planted, subject, twin=Subject(other, subject.budget))
