"""The language: its generator, its exact law, and the paper's known answers."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp.errors import InputError
from interp.organisms.bigram_backcopy.grammar import Grammar, char_grammar, small_grammar


@pytest.fixture(scope="module")
def small() -> Grammar:
    return small_grammar()


@pytest.fixture
def shakespeare(reference: Callable[[str], Path]) -> Grammar:
    return char_grammar(reference("text/tinyshakespeare.txt").read_text(encoding="utf-8"))


def test_small_setting_has_64_live_tokens(small: Grammar) -> None:
    assert small.tokens[:4] == ("<bos>", "t1", "t2", "t3")
    assert small.tokens[4] == "w04" and small.tokens[63] == "w63"
    assert small.tokens[64:] == ("<pad>",)
    assert len(small.speakers) == 61
    assert small.law[small.speakers].sum(1) == pytest.approx(1.0)


def test_triggers_copy_and_never_follow_one_another(small: Grammar) -> None:
    ids = small.sample(500, 40, np.random.default_rng(0))
    active = small.active(ids)
    assert (ids[:, 0] == small.bos).all()
    assert not active[:, :2].any()
    assert not (active[:, 1:] & active[:, :-1]).any()
    rows, columns = np.nonzero(active[:, :-1])
    assert (ids[rows, columns + 1] == ids[rows, columns - 1]).all()
    assert (ids[:, 1:] != small.bos).all() and (ids < 64).all()


def test_masks_part_the_positions(small: Grammar) -> None:
    ids = small.sample(20, 30, np.random.default_rng(1))
    kinds = np.stack([small.active(ids), small.dormant(ids), ids == small.bos])
    assert (kinds.sum(0) == 1).all()


def test_the_law_is_that_of_the_generator(small: Grammar) -> None:
    ids = small.sample(4000, 60, np.random.default_rng(2))
    before, after = ids[:, 1:-1], ids[:, 2:]
    for token in (4, 17, 40):
        seen = after[before == token]
        frequency = np.bincount(seen, minlength=len(small.tokens)) / len(seen)
        noise = np.sqrt(small.law[token] * (1 - small.law[token]) / len(seen))
        assert (np.abs(frequency - small.law[token]) <= 5 * noise + 1e-12).all()
        assert frequency[list(small.triggers)].sum() == pytest.approx(0.12, abs=0.02)


def test_the_next_law_knows_the_copy(small: Grammar) -> None:
    ids = small.sample(50, 30, np.random.default_rng(3))
    law = small.next_law(ids)
    assert law.sum(-1) == pytest.approx(1.0)
    probability = np.take_along_axis(law[:, :-1], ids[:, 1:, None], -1)[..., 0]
    assert (probability > 0).all()
    assert (probability[small.active(ids[:, :-1])] == 1.0).all()


@pytest.mark.parametrize("first", [0, 4])
def test_oracle_equals_a_simulation(small: Grammar, first: int) -> None:
    exact = small.oracle(24, first)
    ids = small.sample(20_000, 24, np.random.default_rng(4))[:, first:]
    active = small.active(ids)
    assert active.mean() == pytest.approx(exact.trigger_fraction, abs=2e-3)
    assert small.entropy[ids][~active].mean() == pytest.approx(exact.bigram, abs=4e-3)
    assert exact.backcopy == 0.0


def test_no_predictor_of_the_past_beats_the_oracle(small: Grammar) -> None:
    ids = small.sample(3000, 24, np.random.default_rng(5))
    law = small.next_law(ids)[:, :-1]
    quiet = ~small.active(ids[:, :-1])
    nll = -np.log(np.take_along_axis(law, ids[:, 1:, None], -1)[..., 0])
    assert nll[quiet].mean() == pytest.approx(small.oracle(23).bigram, abs=0.015)
    without_triggers = small.at_rate(0.0).next_law(ids)[:, :-1]
    missing = np.take_along_axis(without_triggers, ids[:, 1:, None], -1)[..., 0]
    assert (missing[quiet] == 0).any()


def test_paper_setting_gives_the_known_answers(shakespeare: Grammar) -> None:
    grammar = shakespeare
    assert [grammar.tokens[i] for i in grammar.triggers] == [" ", "e", "t"]
    assert grammar.triggers == (1, 43, 58)
    assert grammar.start[[1, 43, 58]] == pytest.approx([0.15232, 0.08482, 0.06008], abs=1e-5)
    letters = grammar.start[grammar.start > 0]
    assert -(letters * np.log(letters)).sum() == pytest.approx(3.3128, abs=1e-4)
    oracle = grammar.oracle(256)
    # The notes' 2.2262 and .254 come from one simulated batch, with a noise of .004.
    assert oracle.bigram == pytest.approx(2.2262, abs=0.004)
    assert oracle.trigger_fraction == pytest.approx(0.254, abs=0.004)


def test_paper_setting_never_opens_with_a_trigger(shakespeare: Grammar) -> None:
    ids = shakespeare.sample(200, 257, np.random.default_rng(6))
    active = shakespeare.active(ids)
    assert (ids[:, 0] == 65).all() and not active[:, 1].any()
    assert not (active[:, 1:] & active[:, :-1]).any()
    assert active.mean() == pytest.approx(0.2555, abs=0.004)


def test_char_table_counts_bigrams() -> None:
    grammar = char_grammar("abacab", triggers=1)
    assert grammar.tokens == ("a", "b", "c", "<s_0>") and grammar.triggers == (0,)
    assert grammar.transition[0, :3].tolist() == pytest.approx([0.0, 2 / 3, 1 / 3])
    assert grammar.law[3, :3].tolist() == pytest.approx([0.0, 2 / 3, 1 / 3])


def test_entropy_of_a_fair_coin() -> None:
    table = np.zeros((4, 4))
    table[1:3, 1:3] = 0.5
    grammar = Grammar(("s", "a", "b", "t"), np.array([0, 0.5, 0.5, 0]), table, (3,), 0, 0.0)
    assert grammar.oracle(10).bigram == pytest.approx(math.log(2))
    assert grammar.oracle(10).trigger_fraction == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trigger_rate": 1.0}, "trigger_rate"),
        ({"triggers": (0,)}, "distinct"),
        ({"triggers": (99,)}, "distinct"),
        ({"tokens": ("s", "a", "b")}, "shape"),
        ({"trigger_rate": None}, "sum to 1"),
    ],
)
def test_tables_that_are_no_language_are_refused(change: dict[str, object], said: str) -> None:
    table = np.full((4, 4), 0.3)
    good = Grammar(
        ("s", "a", "b", "t"),
        np.array([0, 0.5, 0.5, 0]),
        np.array([[0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]]),
        (3,),
        0,
        0.2,
    )
    if change == {"trigger_rate": None}:
        change = {"transition": table}
    with pytest.raises(InputError, match=said):
        replace(good, **change)


def test_too_short_a_sequence_and_too_poor_a_text_are_refused(small: Grammar) -> None:
    with pytest.raises(InputError, match="length ≥ 2"):
        small.sample(1, 1, np.random.default_rng(0))
    with pytest.raises(InputError, match="distinct characters"):
        char_grammar("aaa", triggers=1)
