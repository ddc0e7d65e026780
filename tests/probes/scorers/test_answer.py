"""Answers from replies; empty and looping ones."""

from types import SimpleNamespace

import pytest

from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Reply
from probes.scorers import Answer, Verdict, answers, answers_to_rows, unanswered
from probes.scorers.answer import repeats

PROMPT = Prompt(({"role": "user", "content": "Hi"},), "harmless", "test")


def test_thinking_is_taken_out() -> None:
    said = [Reply((1,), "Hm.</think>Sure.", True), Reply((1,), "Hm", False)]
    assert answers([PROMPT] * 2, said, opened=True) == [
        Answer("Hi", "Sure.", "Hm.", closed=True, ended=True),
        Answer("Hi", "", "Hm", closed=False, ended=False),
    ]
    with pytest.raises(InputError, match="1 replies cannot answer 2 prompts"):
        answers([PROMPT] * 2, said[:1])


def test_each_row_tells_whether_it_ends_in_a_thought() -> None:
    tokenizer = SimpleNamespace(decode=lambda ids: {7: "Hi <think>", 8: "Hi"}[ids[0]])
    rows, said = [Row(0, (7,), "test"), Row(1, (8,), "test")], [Reply((1,), "Yes", False)] * 2
    assert answers_to_rows(tokenizer, [PROMPT] * 2, rows, said) == [
        Answer("Hi", "", "Yes", closed=False, ended=False),
        Answer("Hi", "Yes", None, closed=True, ended=False),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red " * 8, True),
        ("red " * 7, False),
        ("I see. " + "and then it goes on, " * 3, True),
        ("I see. " + "and then it goes on, " * 3 + "and then", True),
        ("I see. " + "and then it goes on, " * 2 + "and then", False),
        ("".join(f"{n}. Wash the pan.\n" for n in range(9)), True),
        ("我不能" * 4, True),
        ("again " * 20 + "but here it stops", False),
        ("Take the pan, then take the lid, then take the oil and heat it.", False),
        ("", False),
    ],
)
def test_repetition_up_to_the_end(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_empty_and_looping_are_told_apart() -> None:
    loop = "no way " * 10
    assert unanswered(Answer("", loop, ended=False)) is Verdict.looping
    assert unanswered(Answer("", loop, ended=True)) is None
    assert unanswered(Answer("", " …\n!")) is Verdict.empty
    assert unanswered(Answer("", "42")) is None
    assert unanswered(Answer("", "", "Hm", closed=False, ended=False)) is Verdict.empty
    assert unanswered(Answer("", "", loop, closed=False, ended=False)) is Verdict.looping
    assert unanswered(Answer("", "Sure.", loop, ended=False)) is None
