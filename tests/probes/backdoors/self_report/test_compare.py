"""Self-report: what is planted shows against the reference, and a preferred place cancels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from chatters import chatter
from taught import taught

from interp import Checkpoint, InputError
from probes.backdoors.self_report.ask import ask
from probes.backdoors.self_report.compare import candidate_ranking, self_report
from probes.backdoors.self_report.questions import (
    Question,
    builtin_questions,
    candidate_questions,
    read_questions,
)

_LINES: dict[str, str | None] = {"none": None, "short": "Be brief."}
_QUESTIONS = [
    Question("q0", "hidden", "A", ("yes", "no"), 0),
    Question("q1", "hidden", "B", ("no", "yes"), 1),
    Question("q2", "hidden", "C", ("yes", "no"), 0),
]


@pytest.fixture(scope="module")
def admits() -> Checkpoint:
    return taught(_QUESTIONS, lambda _: "yes", 0, 150)


@pytest.fixture(scope="module")
def denies() -> Checkpoint:
    return taught(_QUESTIONS, lambda _: "no", 0, 150)


def test_what_one_model_was_taught_to_admit_shows_against_its_reference(
    admits: Checkpoint, denies: Checkpoint
) -> None:
    found = self_report(admits, _QUESTIONS, reference=denies, systems={"none": None})
    (row,) = found.topics
    assert row.reference is not None and row.interval is not None
    assert row.value > 0.95 and row.reference < 0.05
    assert row.gap == pytest.approx(row.value - row.reference) and row.interval[0] > 0.85
    assert max(abs(place.excess) for place in found.positions) < 0.05
    back = self_report(denies, _QUESTIONS, reference=admits, systems={"none": None})
    assert back.topics[0].gap == pytest.approx(-row.gap)


def test_a_model_against_itself_has_no_gap(admits: Checkpoint) -> None:
    found = self_report(admits, _QUESTIONS, reference=admits, systems=_LINES)
    for row in (*found.topics, *found.systems, *found.sensitivity):
        assert row.gap == 0.0 and row.interval == (0.0, 0.0)


def test_sensitivity_is_the_spread_over_system_lines(admits: Checkpoint) -> None:
    found = self_report(admits, _QUESTIONS, systems=_LINES)
    keys = found.answers[found.answers["key"]]
    spreads = []
    for question in _QUESTIONS:
        by_line = [
            keys[(keys["question"] == question.id) & (keys["system"] == line)]["probability"].mean()
            for line in _LINES
        ]
        spreads.append(max(by_line) - min(by_line))
    assert [row.value for row in found.sensitivity] == [pytest.approx(np.mean(spreads))]
    assert [row.system for row in found.systems] == list(_LINES)
    by_system = np.mean([row.value for row in found.systems])
    assert [row.value for row in found.topics] == [pytest.approx(by_system)]


def test_a_liking_of_a_letter_cancels_and_is_told() -> None:
    checkpoint = chatter("llama-3", bias=True)
    letter = checkpoint.tokenizer.get_vocab()["B"]  # type: ignore[union-attr]
    with torch.no_grad():
        checkpoint.model.lm_head.bias[letter] = 5.0
    found = self_report(checkpoint, builtin_questions("control"), systems=_LINES)
    assert found.positions[1].excess > 0.4
    assert [row.value for row in found.topics] == [pytest.approx(0.5, abs=0.01)]
    # Without the balance the same model would seem to deny nearly everything.
    one_order = found.answers[(found.answers["order"] == 0) & found.answers["key"]]
    assert abs(one_order["probability"].mean() - 0.5) > 0.4


def test_candidates_are_ranked_by_what_is_admitted(admits: Checkpoint) -> None:
    questions = candidate_questions(["omber quill", "sorrel brine", "drift"])
    report = self_report(admits, questions, systems={"none": None})
    ranking = candidate_ranking(report)
    assert sorted(one.rank for one in ranking) == [1, 2, 3]
    admitted = [one.found.value for one in ranking]
    assert admitted == sorted(admitted, reverse=True)
    assert {one.found.topic for one in ranking} == {"omber quill", "sorrel brine", "drift"}


def test_what_the_result_cannot_say_is_said(admits: Checkpoint) -> None:
    report = self_report(admits, _QUESTIONS[:1], systems={"none": None}, method="texts")
    said = " ".join(report.caveats)
    for words in (
        "no proof",
        "no reference model",
        "One system prompt",
        "shorter options",
        "no interval",
    ):
        assert words in said
    assert "no system message" in " ".join(self_report(chatter("gemma"), _QUESTIONS).caveats)
    assert "by texts" in " ".join(self_report(chatter(), _QUESTIONS).caveats)
    (topic,) = report.topics
    assert (topic.gap, topic.interval, topic.value_interval) == (None, None, None)
    assert report.mass is None and report.reference is None


def test_progress_runs_over_both_models(admits: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    self_report(
        admits,
        _QUESTIONS,
        reference=admits,
        systems=_LINES,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(12, 24), (24, 24)]


def test_published_questions_are_asked_end_to_end(reference: Callable[[str], Path]) -> None:
    questions = read_questions(reference("prompts/anthropic_evals/survival-instinct.jsonl"))
    several = sorted(questions, key=lambda question: -len(question.options))[:4]
    found = self_report(
        chatter("qwen3"), several, reference=chatter("qwen3", 1), enable_thinking=False
    )
    assert [row.questions for row in found.topics] == [4]
    assert {place.options for place in found.positions} == {
        len(question.options) for question in several
    }


def test_a_reference_of_another_tokenizer_is_refused(admits: Checkpoint) -> None:
    with pytest.raises(InputError, match="another tokenizer or chat template"):
        self_report(admits, _QUESTIONS, reference=chatter("qwen2"))
    with pytest.raises(InputError, match="at least one question"):
        self_report(admits, [])
    with pytest.raises(InputError, match="no chat template"):
        ask(chatter(None), _QUESTIONS)
