import numpy as np
import pytest
from scipy.stats import norm

from interp.statistics.intervals import (
    auroc_interval,
    bootstrap,
    mean_interval,
    paired_interval,
    share_interval,
    wilson,
)

TRIALS = 2000


def _coverage(draw: str, sequences: int) -> float:
    """How often the interval of a mean holds the truth; every column is a trial."""
    generator = np.random.default_rng(3)
    if draw == "normal":
        truth, values = 1.7, generator.normal(1.7, 2.0, (sequences, TRIALS))
    else:
        truth, values = 0.2, generator.beta(2.0, 8.0, (sequences, TRIALS))
    low, high = bootstrap(values, seed=0)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("draw", ["normal", "beta"])
def test_nineteen_of_twenty_intervals_hold_the_truth(draw: str) -> None:
    assert 0.92 <= _coverage(draw, 50) <= 0.97


def test_few_sequences_cover_less_but_not_nothing() -> None:
    assert 0.85 <= _coverage("normal", 8) <= 0.93


def test_the_fast_mean_is_the_resampled_mean() -> None:
    """Multinomial weights and gathered rows are two ways to the same distribution."""
    values = np.random.default_rng(0).normal(size=(40, 3))
    fast = bootstrap(values, 1)
    slow = bootstrap(values, 1, lambda sample: sample.mean(0))
    assert np.allclose(fast, slow, atol=0.05)
    assert fast[0].shape == fast[1].shape == (3,)
    spread = values.std(0) / np.sqrt(40)
    assert np.allclose(fast[1] - fast[0], 2 * 1.96 * spread, rtol=0.1)


def test_columns_are_resampled_together() -> None:
    column = np.random.default_rng(0).normal(size=20)
    low, high = bootstrap(np.stack([column, column + 5], 1), 7)
    assert low[1] - low[0] == pytest.approx(5)
    assert high[1] - high[0] == pytest.approx(5)


def test_a_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=(10,))
    assert bootstrap(values, 1) == bootstrap(values, 1) != bootstrap(values, 2)


def test_one_sequence_tells_no_spread() -> None:
    low, high = bootstrap(np.ones((1, 4)), 0)
    assert np.isnan(low).all() and np.isnan(high).all() and low.shape == (4,)
    assert mean_interval(np.ones(1), 0) is None
    assert share_interval(np.ones(1), 0) is None


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Worked by hand from Wilson (1927); 5 of 10 is in most textbooks.
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 10, 0.0178762, 0.4041500),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2552885, 0.3662096),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(float(successes), n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_agreement_of_all_sequences_leaves_room(share: float) -> None:
    interval = share_interval(np.full(20, share), 0)
    assert interval is not None
    assert interval[0] <= share <= interval[1]
    assert interval[1] - interval[0] > 0.1


def test_shares_between_are_bootstrapped() -> None:
    shares = np.random.default_rng(0).beta(2, 3, 30)
    assert share_interval(shares, 4) == mean_interval(shares, 4)


@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.9, 0.99, 1.0])
def test_an_auroc_interval_holds_its_area_and_never_collapses(area: float) -> None:
    low, high = auroc_interval(area, 20, 30)
    assert 0.0 <= low <= area <= high <= 1.0
    assert high - low > 0.02
    wider = auroc_interval(area, 10, 15)
    assert wider[0] <= low and wider[1] >= high
    mirrored = auroc_interval(1 - area, 20, 30)
    assert mirrored[0] == pytest.approx(1 - high, abs=1e-6)


def test_an_auroc_interval_covers() -> None:
    """Binormal scores of a known area; Newcombe reports coverage near 95 % for method 5."""
    generator = np.random.default_rng(0)
    truth = float(norm.cdf(1.5 / np.sqrt(2)))
    hits = 0
    for _ in range(1000):
        negative, positive = generator.normal(size=20), generator.normal(1.5, size=20)
        area = float((positive[:, None] > negative[None]).mean())
        low, high = auroc_interval(area, 20, 20)
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.98


def test_differences_that_all_agree_have_an_interval_that_does_not_collapse() -> None:
    low, high = paired_interval(np.ones(40), 0, most=2.0) or (0.0, 0.0)
    assert (1 - low, high - 1) == pytest.approx((wilson(0, 40)[1],) * 2)
    assert paired_interval(-np.ones(40), 0) == (-1.0, pytest.approx(-low))
    mixed = np.array([1.0] * 30 + [0.0] * 10)
    assert paired_interval(mixed, 0) == mean_interval(mixed, 0)
    assert paired_interval(np.ones(1), 0) is None
