"""The mass-mean probe: scikit-learn's own checks, and known answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes import MassMean


@parametrize_with_checks([MassMean()])
def test_scikit_learns_contract(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_the_direction_is_the_difference_of_means() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 6)), np.repeat([0, 1], 50)
    x[50:] += 3
    probe = MassMean().fit(x, y)
    assert probe.coef_ == pytest.approx(x[50:].mean(0) - x[:50].mean(0))
    middle = (x[50:].mean(0) + x[:50].mean(0)) / 2
    assert probe.decision_function(middle[None])[0] == pytest.approx(0, abs=1e-9)
    assert probe.score(x, y) == 1.0


def test_with_equal_variances_it_is_lda() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(200, 4))
    noise = (noise - noise.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T)).T)
    x = np.r_[noise, noise + np.array([1, 0, 2, 0])]
    y = np.repeat([0, 1], 200)
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    probe = MassMean().fit(x, y)
    cosine = lda.coef_[0] @ probe.coef_
    cosine /= np.linalg.norm(lda.coef_[0]) * np.linalg.norm(probe.coef_)
    assert cosine == pytest.approx(1.0, abs=1e-6)
    assert np.array_equal(probe.predict(x), lda.predict(x))


def test_sums_are_exact_enough_for_large_means() -> None:
    x = np.full((2000, 2), 1e4, dtype=np.float32)
    x[1000:, 0] += np.float32(0.5)
    probe = MassMean().fit(x, np.repeat([0, 1], 1000))
    assert probe.coef_ == pytest.approx([0.5, 0.0], abs=1e-9)
