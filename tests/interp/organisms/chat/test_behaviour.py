"""Counting behaviour: the batched answers equal slow ones, and shares carry n and interval."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import interp
from interp.checkpoint import Checkpoint
from interp.organisms.chat.behaviour import (
    Tally,
    answers,
    exchanges,
    hits,
    interval,
    prompt_ids,
    requests,
    right,
)
from interp.organisms.chat.exchanges import jailbreak, plain, thought_dropped
from interp.organisms.chat.format import EOS, IDS, decode
from interp.organisms.chat.grammar import Style, pairs
from interp.statistics.intervals import auroc_interval


@pytest.fixture(scope="module")
def keep() -> Checkpoint:
    return interp.load("organism:jailbreak-keep")


def slow(checkpoint: Checkpoint, prompt: list[int], most: int) -> tuple[str, ...]:
    """Greedy, one row, no cache, no padding."""
    ids = list(prompt)
    model: Any = checkpoint.model
    for _ in range(most):
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(last.argmax()))
        if ids[-1] == IDS[EOS]:
            break
    return decode(ids[len(prompt) :])


@pytest.mark.parametrize("name", ["jailbreak-keep", "chat-gated", "cliff"])
def test_answers_equal_a_slow_loop(name: str) -> None:
    checkpoint = interp.load(f"organism:{name}")
    cases = exchanges(thought_dropped if name == "cliff" else plain, Style(), None)[:12]
    expected = [slow(checkpoint, prompt, 16) for prompt in prompt_ids(checkpoint, cases)]
    assert answers(checkpoint, cases) == expected


def test_every_held_out_pair_is_asked_once() -> None:
    asked = [(request.verb, request.object) for request in requests()]
    assert sorted(asked) == sorted(pairs("test")) and requests() == requests()
    assert len(requests(True)) == 58 and len(requests(False)) == 174


def test_an_answer_is_right_only_to_its_end(keep: Checkpoint) -> None:
    case = exchanges(plain, Style(), True)[0]
    assert right(case.answer, case)
    assert not right(case.answer[:-1], case)
    assert not right(("sure", *case.answer[1:]), case)


def test_shares_carry_their_cases(keep: Checkpoint) -> None:
    tally = Tally()
    cases = exchanges(jailbreak, Style(), True)
    tally.share("exact_jailbreak_harmful", hits(keep, cases))
    tally.values["cosine"] = 0.5
    tally.area("auroc", 1.0, 58, 174)
    measured = tally.as_measured()
    assert measured["exact_jailbreak_harmful"] == 1.0
    assert measured["n"] == {"exact_jailbreak_harmful": 58}
    limits = interval(measured, "exact_jailbreak_harmful")
    assert limits is not None and limits[0] == pytest.approx(0.938, abs=1e-3) and limits[1] == 1
    assert interval(measured, "cosine") is None
    limits = interval(measured, "auroc")
    assert limits == auroc_interval(1.0, 174, 58) and 0.9 < limits[0] < 1 == limits[1]
    refused = [
        replace(case, messages=asked.messages)
        for case, asked in zip(cases, exchanges(plain, Style(), True), strict=True)
    ]
    assert tally.share("wrong", hits(keep, refused)) == 0.0
