"""Thresholds: which half sets and which confirms, and how many prompts that takes."""

import numpy as np
import pytest

from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError
from interp.statistics.intervals import wilson
from probes.guards.threshold import Threshold, benign_halves
from probes.statistics.metrics import threshold_for_fpr


def prompts(count: int, word: str = "benign") -> PromptSet:
    return PromptSet(
        tuple(
            Prompt(({"role": "user", "content": f"{word} {i}"},), "benign", "test")
            for i in range(count)
        )
    )


def test_one_half_sets_and_the_other_confirms() -> None:
    rng = np.random.default_rng(0)
    setting, confirming = rng.normal(size=100), rng.normal(size=80)
    made = Threshold.on_benign(setting, confirming, 0.05)
    assert made.value == threshold_for_fpr(setting, 0.05)
    above = int((confirming > made.value).sum())
    assert (made.fpr, made.benign) == (above / 80, 80)
    assert made.fpr_interval == wilson(float(above), 80)
    fixed = Threshold.on_benign(setting, confirming, None)
    assert fixed.value == 0 and fixed.fpr == pytest.approx((confirming > 0).mean())


def test_the_interval_covers_the_rate_that_new_traffic_has() -> None:
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        made = Threshold.on_benign(rng.uniform(size=100), rng.uniform(size=100), 0.1)
        assert made.fpr_interval is not None
        low, high = made.fpr_interval
        covered.append(low <= 1 - made.value <= high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_halves_share_nothing_with_each_other_or_with_what_was_fitted() -> None:
    benign, fitted = prompts(70), prompts(8)
    first, second = benign_halves(benign + benign, fitted, 0.1, seed=1)
    texts = [{prompt.text for prompt in some} for some in (first, second, fitted)]
    assert [len(some) for some in texts] == [31, 31, 8] == [len(first), len(second), len(fitted)]
    assert len(set.union(*texts)) == 70
    assert benign_halves(benign, fitted, 0.1, seed=2)[0] != first


@pytest.mark.parametrize(
    ("count", "fpr", "said"),
    [
        (59, 0.1, "needs 60 benign prompts .* 30 to set the threshold .* there are 59"),
        (599, 0.01, "needs 600 benign prompts"),
        (100, 0.0, "not between 0 and 1"),
        (100, 1.0, "not between 0 and 1"),
        (0, None, "no benign prompt"),
    ],
)
def test_too_few(count: int, fpr: float | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        benign_halves(prompts(count), prompts(3, "fitted"), fpr)


def test_just_enough() -> None:
    assert [len(half) for half in benign_halves(prompts(60), PromptSet(()), 0.1)] == [30, 30]
    assert len(benign_halves(prompts(1), PromptSet(()), None)[1]) == 1
