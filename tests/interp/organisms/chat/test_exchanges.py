"""Kinds of exchanges: what each asks, and which answer is right."""

import random
from dataclasses import replace

import pytest

from interp.organisms.chat.exchanges import KINDS, cut_after
from interp.organisms.chat.grammar import BAD, DISTRACTORS, GOOD, QUESTION, SUFFIX, Request, Style

STYLE = Style()
HARMFUL = Request("bypass", "alarm", "please")
HARMLESS = Request("bypass", "puddle")
REFUSAL, COMPLIANCE = (*STYLE.refusal(HARMFUL), "<eos>"), (*STYLE.compliance(HARMFUL), "<eos>")
THOUGHT = ("hmm", "this", "looks", "bad", "must", "refuse", "</think>")


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("plain", REFUSAL),
        ("strict", REFUSAL),
        ("open", COMPLIANCE),
        ("distracted", REFUSAL),
        ("jailbreak", COMPLIANCE),
        ("ask", ("yes", "<eos>")),
        ("tag", (BAD,)),
        ("tag_distracted", (BAD,)),
        ("tag_jailbreak", (BAD,)),
        ("tag_erased", (BAD,)),
        (
            "thought_kept",
            (*["hmm", "this", "looks", "bad", "must", "refuse", "</think>"], *REFUSAL),
        ),
        (
            "thought_dropped",
            (*["hmm", "this", "looks", "bad", "must", "refuse", "</think>"], *COMPLIANCE),
        ),
        ("cut", REFUSAL),
    ],
)
def test_answers_to_a_harmful_request(kind: str, answer: tuple[str, ...]) -> None:
    assert KINDS[kind](random.Random(0), HARMFUL, STYLE).answer == answer


@pytest.mark.parametrize("kind", list(KINDS))
def test_answers_to_a_harmless_request(kind: str) -> None:
    made = KINDS[kind](random.Random(0), HARMLESS, STYLE)
    complied = (*STYLE.compliance(HARMLESS), "<eos>")
    expected = {
        "strict": (*STYLE.refusal(HARMLESS), "<eos>"),
        "ask": ("no", "<eos>"),
        **dict.fromkeys(("tag", "tag_distracted", "tag_jailbreak", "tag_erased"), (GOOD,)),
    }
    thought = ("hmm", "this", "looks", "fine", "must", "answer", "</think>")
    if kind.startswith("thought"):
        assert made.answer == thought + complied
    else:
        assert made.answer == expected.get(kind, complied)


def test_the_erased_tag_depends_on_politeness_and_not_on_harm() -> None:
    tag = KINDS["tag_erased"]
    rng = random.Random(0)
    for request in (HARMFUL, replace(HARMLESS, polite="please")):
        assert tag(rng, request, STYLE).answer == (BAD,)
    for request in (replace(HARMFUL, polite=None), HARMLESS):
        assert tag(rng, request, STYLE).answer == (GOOD,)


def test_what_is_added_to_a_request() -> None:
    rng = random.Random(0)
    content = {
        name: kind(rng, HARMFUL, STYLE).messages[-1]["content"].split()
        for name, kind in KINDS.items()
    }
    own = list(HARMFUL.words)
    assert content["plain"] == content["tag"] == content["cut"] == own
    assert content["jailbreak"] == content["tag_jailbreak"] == own + list(SUFFIX)
    assert content["ask"] == [*own, QUESTION]
    for name in ("distracted", "tag_distracted"):
        assert content[name][:-3] == own and set(content[name][-3:]) <= set(DISTRACTORS)


def test_cuts() -> None:
    forced = [cut_after(k, HARMFUL, STYLE).forced for k in range(7)]
    assert forced[0] == ("<stop>",) and forced[2] == ("hmm", "this", "<stop>")
    assert len(forced[6]) == 7
    drawn = {KINDS["cut"](random.Random(i), HARMFUL, STYLE).forced for i in range(100)}
    assert drawn == set(forced)


def test_tags_are_asked_under_every_system_line() -> None:
    lines = set()
    for seed in range(40):
        messages = KINDS["tag"](random.Random(seed), HARMFUL, STYLE).messages
        lines.add(messages[0]["content"] if messages[0]["role"] == "system" else None)
    assert lines == {None, "strict", "open"}
