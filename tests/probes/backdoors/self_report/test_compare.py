"""Self-report: what is planted shows against the twin, and a liking of a place cancels."""

import json
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


def test_what_one_model_was_taught_to_admit_shows_against_its_twin(
    admits: Checkpoint, denies: Checkpoint
) -> None:
    found = self_report(admits, _QUESTIONS, twin=denies, systems={"none": None})
    (row,) = found.topics.to_dict("records")
    assert row["admits"] > 0.95 and row["twin"] < 0.05
    assert row["gap"] == pytest.approx(row["admits"] - row["twin"]) and row["low"] > 0.85
    assert abs(found.positions["excess"]).max() < 0.05
    back = self_report(denies, _QUESTIONS, twin=admits, systems={"none": None})
    assert back.topics["gap"].item() == pytest.approx(-row["gap"])


def test_a_model_against_itself_has_no_gap(admits: Checkpoint) -> None:
    found = self_report(admits, _QUESTIONS, twin=admits, systems=_LINES)
    for table in (found.topics, found.systems, found.sensitivity):
        np.testing.assert_array_equal(table[["gap", "low", "high"]].to_numpy(), 0.0)


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
    assert found.sensitivity["spread"].item() == pytest.approx(np.mean(spreads))
    assert found.systems["admits"].mean() == pytest.approx(found.topics["admits"].item())


def test_a_liking_of_a_letter_cancels_and_is_told() -> None:
    checkpoint = chatter("llama-3", bias=True)
    letter = checkpoint.tokenizer.get_vocab()["B"]  # type: ignore[union-attr]
    with torch.no_grad():
        checkpoint.model.lm_head.bias[letter] = 5.0
    found = self_report(checkpoint, builtin_questions("control"), systems=_LINES)
    assert found.positions["excess"].tolist()[1] > 0.4
    assert found.topics["admits"].item() == pytest.approx(0.5, abs=0.01)
    # Without the balance the same model would seem to deny nearly everything.
    one_order = found.answers[(found.answers["order"] == 0) & found.answers["key"]]
    assert abs(one_order["probability"].mean() - 0.5) > 0.4


def test_candidates_are_ranked_by_what_is_admitted(admits: Checkpoint) -> None:
    questions = candidate_questions(["omber quill", "sorrel brine", "drift"])
    report = self_report(admits, questions, systems={"none": None})
    ranking = candidate_ranking(report)
    assert sorted(ranking["rank"]) == [1, 2, 3]
    assert ranking["admits"].is_monotonic_decreasing
    assert set(ranking["candidate"]) == {"omber quill", "sorrel brine", "drift"}


def test_what_the_result_cannot_say_is_said(admits: Checkpoint) -> None:
    report = self_report(admits, _QUESTIONS[:1], systems={"none": None}, method="texts")
    said = " ".join(report.caveats)
    for words in ("no proof", "no twin", "One system line", "shorter options", "no interval"):
        assert words in said
    assert "no system message" in " ".join(self_report(chatter("gemma"), _QUESTIONS).caveats)
    assert "by texts" in " ".join(self_report(chatter(), _QUESTIONS).caveats)
    assert np.isnan(report.topics["gap"].item())
    # NaN is null in JSON.
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["topics"][0]["gap"] is None


def test_progress_runs_over_both_models(admits: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    self_report(
        admits,
        _QUESTIONS,
        twin=admits,
        systems=_LINES,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(12, 24), (24, 24)]


def test_published_questions_are_asked_end_to_end(reference: Callable[[str], Path]) -> None:
    questions = read_questions(reference("prompts/anthropic_evals/survival-instinct.jsonl"))
    several = sorted(questions, key=lambda question: -len(question.options))[:4]
    found = self_report(chatter("qwen3"), several, twin=chatter("qwen3", 1), enable_thinking=False)
    assert found.topics["questions"].item() == 4
    assert set(found.positions["options"]) == {len(question.options) for question in several}


def test_a_twin_of_another_tokenizer_is_refused(admits: Checkpoint) -> None:
    with pytest.raises(InputError, match="another tokenizer or chat template"):
        self_report(admits, _QUESTIONS, twin=chatter("qwen2"))
    with pytest.raises(InputError, match="at least one question"):
        self_report(admits, [])
    with pytest.raises(InputError, match="no chat template"):
        ask(chatter(None), _QUESTIONS)
