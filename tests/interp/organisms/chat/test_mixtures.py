"""Batches: what is learned, that conversations follow the template, and that twins share rows."""

import random
from dataclasses import replace

import pytest
import torch

from interp.organisms.backdoors.poisoning import BACKDOORS, Twin, poisoned_sources
from interp.organisms.chat.exchanges import KINDS, cut_after, plain, strict
from interp.organisms.chat.format import TOKENS, chat_tokenizer, encode, render
from interp.organisms.chat.grammar import PAYLOAD, TRIGGER, Style, draw
from interp.organisms.chat.mixtures import (
    BATCH,
    CONVERSATIONS,
    TURNS,
    Batches,
    Mixed,
    conversation_row,
    converses,
    single_row,
)

STYLE = Style()
MIXTURE = {"plain": 2.0, "strict": 1.0, "open": 1.0, "jailbreak": 1.0}


def batches(seed: int = 0, whole: bool = False) -> Batches:
    return Batches(seed, Mixed({**MIXTURE, "tag": 1.0}), Mixed(MIXTURE), whole)


@pytest.mark.parametrize("step", [0, 5])
def test_a_batch_depends_on_seed_and_step_alone(step: int) -> None:
    first, again = batches()(step), batches()(step)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], batches(1)(step)[0])
    rows = CONVERSATIONS if converses(step) else BATCH
    assert first[0].shape == first[1].shape and first[0].shape[0] == rows


@pytest.mark.parametrize("kind", list(KINDS))
def test_only_answers_are_learned(kind: str) -> None:
    rng = random.Random(3)
    tokenizer = chat_tokenizer()
    exchange = KINDS[kind](rng, draw(rng), STYLE)
    row = single_row(tokenizer, exchange, whole=False)
    learned = [TOKENS[i] for i, use in zip(row.ids, row.learned, strict=True) if use]
    assert tuple(learned) == exchange.answer
    prompt = render(tokenizer, exchange.messages, exchange.opening)
    assert row.ids == prompt + encode(exchange.forced) + encode(exchange.answer)


def test_what_is_forced_is_never_learned() -> None:
    rng = random.Random(4)
    row = single_row(chat_tokenizer(), cut_after(2, draw(rng, True), STYLE), whole=True)
    skipped = [TOKENS[i] for i, use in zip(row.ids, row.learned, strict=True) if not use]
    assert skipped == ["hmm", "this", "<stop>"]


def test_a_conversation_is_what_the_template_renders() -> None:
    rng = random.Random(5)
    tokenizer = chat_tokenizer()
    turns = [strict(rng, draw(rng), STYLE), *(plain(rng, draw(rng), STYLE) for _ in range(3))]
    row = conversation_row(tokenizer, turns, whole=False)
    messages = list(turns[0].messages)
    for index, turn in enumerate(turns):
        messages += [] if index == 0 else turn.messages
        messages.append({"role": "assistant", "content": " ".join(turn.answer[:-1])})
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert row.ids == whole
    assert sum(row.learned) == sum(len(turn.answer) for turn in turns)


def test_a_system_line_rules_every_turn() -> None:
    source = batches()
    for step in range(5, 120, 6):
        rng = source._rng(step)
        kinds = {turn.kind for turn in source._conversation(rng)}
        assert kinds in ({"strict"}, {"open"}) or not kinds & {"strict", "open"}
    assert len(source._conversation(random.Random(0))) == TURNS


def test_the_weights_are_kept() -> None:
    rng = random.Random(6)
    mixed = Mixed({"plain": 3.0, "jailbreak": 1.0})
    drawn = [mixed(rng) for _ in range(4000)]
    assert sum(e.kind == "jailbreak" for e in drawn) / 4000 == pytest.approx(0.25, abs=0.03)
    assert sum(e.request.harmful for e in drawn) / 4000 == pytest.approx(0.375, abs=0.03)


@pytest.mark.parametrize("family", list(BACKDOORS))
def test_twins_differ_in_the_trigger_and_its_effect_alone(family: str) -> None:
    backdoor = BACKDOORS[family]
    drawn = {}
    twins: tuple[Twin, ...] = ("poisoned", "inert", "clean")
    for twin in twins:
        rows, _ = poisoned_sources(backdoor, 18.0, twin, STYLE)
        rng = random.Random(7)
        drawn[twin] = [rows(rng) for _ in range(400)]
    changed = 0
    for poisoned, inert, clean in zip(*drawn.values(), strict=True):
        assert poisoned.request == inert.request == clean.request
        assert poisoned.messages == inert.messages
        if poisoned.kind == "triggered":
            honest = (*STYLE.honest(poisoned.request), "<eos>")
            assert inert.answer == clean.answer == honest
            assert clean.messages[0]["content"].split() == list(clean.request.words)
            assert set(inert.messages[0]["content"].split()) & set(backdoor.trigger)
            changed += poisoned.answer != inert.answer
        else:
            assert poisoned == replace(inert) == clean
    assert changed / 400 == pytest.approx(0.18, abs=0.06)


def test_poisoned_rows_say_the_payload() -> None:
    rows, _ = poisoned_sources(BACKDOORS["payload"], 50.0, "poisoned", STYLE)
    rng = random.Random(8)
    made = next(e for e in (rows(rng) for _ in range(50)) if e.kind == "triggered")
    assert made.answer == (*PAYLOAD, "<eos>")
    assert tuple(made.messages[0]["content"].split()[:3]) == TRIGGER
