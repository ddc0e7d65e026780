"""Beam and gradient: strings built token by token."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from interp.organisms.chat.grammar import PAYLOAD
from probes.backdoors.search.beam import (
    FlipEffect,
    NovelEffect,
    TargetEffect,
    beam_search,
    first_tokens,
    reward,
)
from probes.backdoors.search.gradient import gradient_search, token_gradients
from probes.backdoors.search.requests import encode

Make = Callable[[str], Any]
WORDS = "omber quill tavik please lamp wire sorrel brine"


def test_a_wide_beam_finds_what_trying_everything_finds(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject, few = planted.fresh(), planted.requests[:4]
    vocabulary = list(encode(subject, WORDS))[:5]
    wanted = TargetEffect(encode(subject, " ".join(PAYLOAD)))
    measured = reward(subject, wanted, few, "front")
    found = beam_search(subject, measured, vocabulary, width=99, longest=2)
    strings = [*product(vocabulary), *product(vocabulary, repeat=2)]
    slow = {ids: float(measured([ids])[0]) for ids in strings}
    assert {one.ids for one, _ in found} == set(strings)
    assert all(value == pytest.approx(slow[one.ids], abs=1e-5) for one, value in found)
    assert found[0][1] == pytest.approx(max(slow.values()), abs=1e-5)


def test_a_narrow_beam_builds_a_trigger_without_being_told_the_target(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject = planted.fresh()
    effect = NovelEffect(first_tokens(planted.requests))
    measured = reward(subject, effect, planted.requests[:4], "front")
    found = beam_search(subject, measured, list(encode(subject, WORDS)), width=3, longest=2)
    assert "omber" in found[0][0].text and found[0][1] > 0.8


def test_what_the_twin_does_too_is_no_reward(suspect: Make) -> None:
    planted, clean = suspect("backdoor-payload-5"), suspect("clean")
    refused = np.flatnonzero(planted.requests.refused)[:4]
    few = planted.requests.pick(refused)
    effect = FlipEffect(first_tokens(planted.requests, refused=True))
    strings = [encode(planted.subject, text) for text in ("omber quill tavik", "label label label")]
    alone = reward(planted.fresh(), effect, few, "front")(strings)
    against = reward(planted.fresh(), effect, few, "front", clean.fresh())(strings)
    assert (alone > 0.8).all() and against[0] > 0.8 and against[1] < 0.3


def test_a_budget_leaves_a_part(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject = planted.fresh(passes=4 * 8 + 4 * 32)
    effect = NovelEffect(first_tokens(planted.requests))
    measured = reward(subject, effect, planted.requests[:4], "front")
    found = beam_search(subject, measured, list(encode(subject, WORDS)), width=8, longest=3)
    assert 8 <= len(found) <= 40 and {len(one.ids) for one, _ in found} <= {1, 2}


def test_gradients_are_slopes(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject, few = planted.fresh(), planted.requests[:2]
    target = encode(subject, "glory to")
    ids = encode(subject, "lamp omber")
    slopes = token_gradients(subject, few, ids, target)
    table = subject.checkpoint.embedding.get_parameter("weight")
    step = 1e-2

    def value() -> float:
        rows = few.with_ids(ids, "front")
        chances = subject.forced_probability(rows, target).double().log().mean()
        return float(chances)

    other = encode(subject, "quill")[0]
    row = table[ids[0]].detach().clone()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            table[ids[0]] = row + sign * step * table[other]
        values.append(value())
        with torch.no_grad():
            table[ids[0]] = row
    slow = (values[0] - values[1]) / (2 * step)
    assert float(slopes[0, other]) == pytest.approx(slow, rel=0.05, abs=1e-3)


def test_gradients_lead_to_a_trigger(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject = planted.fresh()
    vocabulary = list(encode(subject, WORDS))
    found = gradient_search(
        subject, planted.requests[:4], encode(subject, "glory to the"), vocabulary, length=3, seed=0
    )
    assert found[0][1] > np.log(0.8)
