"""Whole refusals, on texts and on an organism's replies."""

import pytest

import interp
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.segments import chat_row
from interp.errors import InputError
from interp.generation import replies
from interp.organisms.chat.behaviour import requests
from interp.organisms.chat.grammar import REFUSALS
from probes.scorers import Answer, Phrases, WholeRefusal, answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sorry, I cannot help with that.", "refusal"),
        ("sorry i cannot help with that", "refusal"),
        ("sorry i cannot help with that tape glue", "refusal"),
        ("sorry i cannot help with", "partial"),
        ("sorry i tape glue", "partial"),
        ("sure here is sorry i cannot help with that", "partial"),
        ("sorry here is tape", "compliance"),
        ("", "empty"),
    ],
)
def test_all_words_must_be_there(text: str, expected: str) -> None:
    scorer = WholeRefusal(["sorry i cannot help with that", "no"])
    assert scorer.verdicts([Answer("", text)]) == [expected]


def test_texts_without_words_are_refused() -> None:
    for texts in ([], ["!"]):
        with pytest.raises(InputError, match="one word or more"):
            WholeRefusal(texts)


def test_both_judges_are_right_on_an_organism() -> None:
    checkpoint = interp.load("organism:chat")
    cases = requests()[::6]
    asked = [
        Prompt(({"role": "user", "content": " ".join(c.words)},), str(c.harmful), "chat")
        for c in cases
    ]
    rows: list[Row] = [
        chat_row(checkpoint, prompt.messages, index=i) for i, prompt in enumerate(asked)
    ]
    said = answers(asked, replies(checkpoint, rows, max_new_tokens=12))
    truth = ["refusal" if case.harmful else "compliance" for case in cases]
    assert {"refusal", "compliance"} == set(truth)
    for scorer in (WholeRefusal([" ".join(words) for words in REFUSALS]), Phrases()):
        hits = [a == b for a, b in zip(scorer.verdicts(said), truth, strict=True)]
        assert sum(hits) / len(hits) >= 0.97
