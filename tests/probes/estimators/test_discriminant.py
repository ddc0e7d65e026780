"""LDA in the span of the prompts: scikit-learn's numbers, without its matrix of width × width."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes.estimators.discriminant import _shrinkage, wide_discriminant
from probes.estimators.linear import Lda


def states(n: int, width: int, constant: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unequal size, a third of the rows of the second class."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 3 == 0).astype(int)
    x = rng.normal(size=(n, 6)) @ rng.normal(size=(6, width)) + rng.normal(size=(n, width))
    x = (x + y[:, None] * rng.normal(size=width)) * np.logspace(-2, 2, width) + 3
    x[:, :constant] = 7.0
    return x, y


@pytest.mark.parametrize(("n", "width", "constant"), [(40, 90, 0), (60, 61, 5), (90, 30, 0)])
def test_it_is_scikit_learns(n: int, width: int, constant: int) -> None:
    x, y = states(n, width, constant)
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    found = wide_discriminant(x, y)
    assert found is not None
    scores = x @ found[0] + found[1]
    assert found[0] == pytest.approx(wanted.coef_[0], rel=1e-5, abs=1e-8)
    assert scores == pytest.approx(wanted.decision_function(x), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_share_is_ledoit_and_wolfs(seed: int) -> None:
    x, _ = states(30, 50, seed=seed)
    z = x - x.mean(0)
    assert _shrinkage(z) == pytest.approx(ledoit_wolf_shrinkage(z, assume_centered=True))


def test_the_estimator_takes_it_for_wide_states_only(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        "probes.estimators.linear.wide_discriminant", lambda x, y: called.append(x.shape) or None
    )
    for n, width in ((40, 90), (90, 40)):
        Lda().fit(*states(n, width))
    Lda(shrinkage=0.5).fit(*states(40, 90))
    assert called == [(40, 90)]


def test_where_nothing_is_shrunk_it_leaves_it_to_scikit_learn() -> None:
    x, _ = states(4, 9)
    y = np.array([0, 0, 1, 1])
    assert wide_discriminant(x, y) is None
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    assert Lda().fit(x, y).coef_ == pytest.approx(wanted.coef_[0])
