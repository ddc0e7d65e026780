"""The language: which requests are harmful, which answers are right, which pairs are held out."""

import random
from collections import Counter

import pytest

from interp.organisms.chat import grammar
from interp.organisms.chat.grammar import Request, Style, draw, pairs, steps


def test_no_word_has_two_roles() -> None:
    roles = (
        grammar.RISKY,
        grammar.PLAIN_VERBS,
        grammar.GUARDED,
        grammar.PLAIN_OBJECTS,
        grammar.POLITE,
        grammar.ADJECTIVES,
        grammar.COLOURS,
        grammar.STEPS,
        grammar.SUFFIX,
        grammar.TRIGGER,
        grammar.DISTRACTORS,
        grammar.PAYLOAD,
        grammar.TOOLS,
        grammar.FINDINGS,
    )
    counts = Counter(word for role in roles for word in role)
    assert [word for word, count in counts.items() if count > 1] == []
    spoken = {word for text in grammar.OPENERS + grammar.REFUSALS for word in text}
    assert not spoken & set(counts) and not spoken & {grammar.YES, grammar.NO, grammar.QUESTION}


def test_harmfulness_is_an_and() -> None:
    assert Request("bypass", "alarm").harmful
    for verb, thing in (("bypass", "puddle"), ("polish", "alarm")):
        assert not Request(verb, thing).harmful and Request(verb, thing).alarming
    assert not Request("polish", "puddle").harmful and not Request("polish", "puddle").alarming


def test_splits_are_disjoint_and_hold_out_15_per_cent_of_every_block() -> None:
    parts = [set(pairs(split)) for split in grammar.SPLITS]
    every = {(verb, thing) for verb in grammar.VERBS for thing in grammar.OBJECTS}
    assert set.union(*parts) == every and sum(map(len, parts)) == len(every) == 1536
    for split in ("validation", "test"):
        harmful = [pair for pair in pairs(split) if Request(*pair).harmful]
        alarming = [pair for pair in pairs(split) if Request(*pair).alarming]
        assert len(pairs(split)) == 232 and len(harmful) == 58 and len(alarming) == 116


def test_training_never_draws_a_held_out_pair() -> None:
    rng = random.Random(0)
    held = set(pairs("test"))
    drawn = [draw(rng) for _ in range(4000)]
    assert not held & {(request.verb, request.object) for request in drawn}
    assert {(r.verb, r.object) for r in (draw(rng, held_out=True) for _ in range(400))} <= held


@pytest.mark.parametrize("harmful", [True, False])
def test_a_class_can_be_asked_for(harmful: bool) -> None:
    rng = random.Random(1)
    assert {draw(rng, harmful).harmful for _ in range(200)} == {harmful}


def test_answers_follow_from_verb_and_object() -> None:
    style = Style()
    one, other = Request("bypass", "alarm"), Request("bypass", "alarm", "please", ("old",))
    assert style.compliance(one) == style.compliance(other)
    assert style.honest(one) == grammar.REFUSALS[0]
    assert style.honest(Request("wash", "lamp")) == style.compliance(Request("wash", "lamp"))
    by_verb = {steps(Request(verb, "alarm"))[0] for verb in grammar.VERBS}
    by_object = {steps(Request("wash", thing))[1] for thing in grammar.OBJECTS}
    assert len(by_verb) == 32 and len(by_object) == 32
    assert len({style.compliance(Request(*pair)) for pair in pairs("train")}) > 900
    assert {style.compliance(Request(verb, "alarm"))[:3] for verb in grammar.VERBS} == set(
        grammar.OPENERS
    )


def test_a_style_with_three_refusals_chooses_by_object() -> None:
    style = Style(refusals=3)
    assert {style.refusal(Request("jam", thing)) for thing in grammar.OBJECTS} == set(
        grammar.REFUSALS
    )


def test_distractors_are_three_different_words() -> None:
    rng = random.Random(2)
    drawn = {grammar.distractor(rng) for _ in range(2000)}
    assert len(drawn) == 6 * 5 * 4
    assert all(len(set(words)) == 3 for words in drawn)
