"""Floors: what the surface of prompts tells, and the sentences that say so."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from interp.data.prompt_sets import Prompt, PromptSet, builtin, equalise
from interp.errors import InputError
from probes.statistics.floors import last_token_floor, length_floor, lexical_floor, surface_caveats

HALVES = np.repeat([True, False], 50)


def prompts(**texts: list[str]) -> PromptSet:
    return PromptSet(
        tuple(
            Prompt(({"role": "user", "content": text},), label, "here")
            for label, some in texts.items()
            for text in some
        )
    )


def test_the_token_alone_tells() -> None:
    """A token's held-out score is in the order of its share of positives, by hand."""
    train = np.repeat([7, 7, 3, 5], 25)
    train[[0, 60]] = [3, 7]  # both ids appear in both classes
    found = last_token_floor(train, HALVES, np.array([7, 3, 5, 3]), np.array([1, 0, 0, 1], bool))
    assert found.value == (1 + 1 + 0.5 + 1) / 4 and (found.positives, found.negatives) == (2, 2)
    perfect = last_token_floor(HALVES * 1, HALVES, HALVES * 1, HALVES)
    assert perfect.value == 1.0 and perfect.method == "Newcombe" and perfect.interval[0] < 0.97


def test_unseen_ids_score_the_prior() -> None:
    """With few positives the prior is low: above a token of negatives, below one of positives."""
    tokens, positive = np.repeat([1, 2], [20, 80]), np.arange(100) < 20
    asked = np.array([1, 99, 2])
    for known, value in (([1, 0, 0], 1.0), ([0, 0, 1], 0.0), ([0, 1, 0], 0.5)):
        assert last_token_floor(tokens, positive, asked, np.array(known, bool)).value == value
    blind = last_token_floor(tokens, positive, np.arange(50, 60), np.arange(10) < 5)
    assert blind.value == 0.5


def test_words_tell() -> None:
    train = ["steal the Bread"] * 50 + ["bake the bread"] * 50
    found = lexical_floor(train, HALVES, ["STEAL!", "bake?", "the"], np.array([1, 0, 0], bool))
    assert found.value == 1.0
    chance = lexical_floor(train, HALVES, ["bread bread", "other"], np.array([True, False]))
    assert chance.value in (0.0, 0.5, 1.0)
    with pytest.raises(InputError, match="hold no words"):
        lexical_floor(["?!"] * 100, HALVES, ["a", "b"], np.array([True, False]))


@pytest.mark.parametrize("sign", [1, -1])
def test_length_is_a_logistic_regression_of_one_number(sign: int) -> None:
    rng = np.random.default_rng(0)
    train = 20 + rng.integers(0, 10, 100) + sign * 4 * HALVES
    test = 20 + rng.integers(0, 10, 100) + sign * 4 * HALVES
    found = length_floor(train, HALVES, test, HALVES)
    model = LogisticRegression().fit(train[:, None], HALVES)
    scores = model.decision_function(test[:, None])
    pairs = scores[:50, None] - scores[None, 50:]
    assert found.value == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert found.value > 0.7
    reverse = length_floor(train, HALVES, test, ~HALVES)
    assert reverse.value == pytest.approx(1 - found.value)  # held out: never folded


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="all training prompts are of one class"):
        length_floor(np.arange(3), np.ones(3, bool), np.arange(2), np.array([True, False]))
    with pytest.raises(InputError, match="one class is empty"):
        length_floor(np.arange(2), np.array([True, False]), np.arange(3), np.ones(3, bool))


def test_caveats_say_how_endings_and_lengths_differ() -> None:
    some = prompts(
        harmful=[f"do it {n}" for n in range(30)],
        harmless=[f"please do it at once {n}." for n in range(27)] + ["do it now"] * 3,
        alarming=["kill the process?"] * 9,
    )
    ending, length = surface_caveats(some, "harmful", "harmless")
    assert (
        "AUROC 0.950" in ending and "100 % of the harmful ones end in a letter or digit" in ending
    )
    assert "90 % of the harmless ones in '.'" in ending
    assert "AUROC 0.950 (medians 3 and 6)" in length


def test_marks_of_another_kind_are_seen() -> None:
    """Both classes end in a mark, so having one tells nothing; which one tells all."""
    some = prompts(harmful=["do it."] * 30, alarming=["do it?"] * 30)
    (ending,) = surface_caveats(some, "harmful", "alarming")
    assert "AUROC 1.000" in ending and "in '.'" in ending and "in '?'" in ending


def test_equalised_prompts_need_no_caveat() -> None:
    some = prompts(
        harmful=[f"do it {'so ' * (n % 3)}now" for n in range(30)],
        harmless=[f"do it {'so ' * (n % 4)}now." for n in range(40)],
    )
    assert len(surface_caveats(some, "harmful", "harmless")) >= 1
    assert surface_caveats(equalise(some).prompts, "harmful", "harmless") == []
    assert surface_caveats(builtin(), "harmful", "harmless") == []
    with pytest.raises(InputError, match="there are no 'odd' prompts"):
        surface_caveats(some, "harmful", "odd")
