"""Platt's probabilities, and the curve that says whether they hold."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from interp.errors import InputError, NumericalError
from interp.statistics.intervals import wilson
from probes.statistics.calibration import Platt, reliability


def cases(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true probability is σ(2·score − 1)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n)
    return scores, rng.uniform(size=n) < expit(2 * scores - 1)


def test_the_truth_is_found() -> None:
    platt = Platt.fit(*cases(0))
    assert (platt.slope, platt.intercept) == pytest.approx((2, -1), abs=0.15)


def test_it_is_platts_likelihood() -> None:
    scores, positive = cases(1, 40)
    scores = 1000 + 0.01 * scores  # far away and narrow
    p, n = positive.sum(), (~positive).sum()
    target = np.where(positive, (p + 1) / (p + 2), 1 / (n + 2))
    off = (scores - 1000) / 0.01

    def loss(at: np.ndarray) -> float:
        z = at[0] * off + at[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    slow = minimize(loss, np.zeros(2), tol=1e-12).x
    expected = expit(slow[0] * off + slow[1])
    np.testing.assert_allclose(Platt.fit(scores, positive)(scores), expected, atol=1e-4)


def test_parted_classes_stay_finite() -> None:
    scores = np.r_[np.zeros(30), np.ones(20)]
    likely = Platt.fit(scores, scores > 0)(scores)
    assert likely[0] == pytest.approx(1 / 32, abs=1e-3)
    assert likely[-1] == pytest.approx(21 / 22, abs=1e-3)


def test_equal_scores_give_the_share() -> None:
    positive = np.arange(40) < 10
    assert Platt.fit(np.ones(40), positive)(np.ones(1))[0] == pytest.approx(
        (10 * 11 / 12 + 30 / 32) / 40, abs=1e-4
    )


def test_the_curve_by_hand() -> None:
    likely = np.array([0.01, 0.05, 0.32, 0.38, 0.31, 1.0])
    positive = np.array([False, False, True, False, False, True])
    curve = reliability(likely, positive)
    assert curve["n"].tolist() == [2, 3, 1]
    assert curve["observed"].tolist() == pytest.approx([0, 1 / 3, 1])
    assert curve["predicted"].tolist() == pytest.approx([0.03, 1.01 / 3, 1])
    assert (curve["low"][1], curve["high"][1]) == wilson(1.0, 3)


def test_true_probabilities_lie_in_the_intervals() -> None:
    scores, positive = cases(2)
    good = reliability(expit(2 * scores - 1), positive)
    assert ((good["low"] <= good["predicted"]) & (good["predicted"] <= good["high"])).mean() >= 0.8
    sure = reliability(expit(6 * scores - 3), positive)
    assert ((sure["low"] <= sure["predicted"]) & (sure["predicted"] <= sure["high"])).mean() < 0.5


def test_refused() -> None:
    with pytest.raises(InputError, match="one class is empty"):
        Platt.fit(np.zeros(3), np.ones(3, bool))
    with pytest.raises(NumericalError, match="NaN"):
        Platt.fit(np.array([0, np.nan]), np.array([True, False]))
    with pytest.raises(InputError, match="between 0 and 1"):
        reliability(np.array([1.5]), np.array([True]))
