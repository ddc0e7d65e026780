"""Linear probes by name: scikit-learn's own checks, and scikit-learn's own answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from interp.errors import InputError
from probes.estimators.linear import ESTIMATORS, Lda, Logistic, Ridge, estimator


def strict_types(estimator: Any) -> dict[str, str]:
    """The tests check types at run time, so an argument of another type is refused at once."""
    return {"check_do_not_raise_errors_in_init_or_set_params": "types are checked in the tests"}


@parametrize_with_checks([Logistic(C=1.0), Lda(), Ridge()], expected_failed_checks=strict_types)
def test_scikit_learns_contract(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def data(n: int = 240, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unequal size and a large mean, and two overlapping classes."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    x += 1.5 * y[:, None] * rng.normal(size=width)
    return x * np.logspace(-1, 1, width) + 5, y


@pytest.mark.parametrize(
    ("probe", "reference"),
    [
        (Logistic(C=0.3, tol=1e-7), LogisticRegression(C=0.3, tol=1e-10, max_iter=5000)),
        (Ridge(alphas=(0.1, 1.0, 10.0)), RidgeClassifierCV(alphas=(0.1, 1.0, 10.0))),
    ],
    ids=["logistic", "ridge"],
)
def test_standardised_fits_are_scikit_learns(probe: Any, reference: Any) -> None:
    x, y = data()
    wanted = make_pipeline(StandardScaler(), reference).fit(x, y)
    found = probe.fit(x, y)
    scores = wanted.decision_function(x)
    assert found.decision_function(x) == pytest.approx(scores, abs=2e-3)
    assert np.array_equal(found.predict(x), found.classes_[(scores > 0).astype(int)])


def test_lda_is_scikit_learns() -> None:
    x, y = data()
    wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    assert Lda().fit(x, y).coef_ == pytest.approx(wanted.coef_[0])
    assert Lda().fit(x, y).decision_function(x) == pytest.approx(wanted.decision_function(x))


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_probe_is_a_direction_in_raw_coordinates(name: str) -> None:
    x, y = data()
    probe = estimator(name).fit(x, np.where(y == 1, "harmful", "benign"))
    assert probe.coef_.shape == (8,) and isinstance(probe.intercept_, float)
    assert probe.decision_function(x) == pytest.approx(x @ probe.coef_ + probe.intercept_)
    assert roc_auc_score(y, x @ probe.coef_) > 0.6
    assert probe.classes_.tolist() == ["benign", "harmful"]
    assert set(probe.predict(x)) <= {"benign", "harmful"}


def test_the_penalty_of_logistic_is_cross_validated_with_groups() -> None:
    x, y = data()
    groups = np.arange(240) // 4
    probe = Logistic(Cs=(1e-3, 1.0)).fit(x, y, groups)
    assert probe.C_ in (1e-3, 1.0)
    assert probe.predict_proba(x)[:, 1] == pytest.approx(
        1 / (1 + np.exp(-probe.decision_function(x)))
    )
    with pytest.raises(InputError, match="a fold holds one class only"):
        Logistic().fit(x, y, np.where(y == 1, np.arange(240), -1))


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"no estimator 'svm'; there are mass-mean, lda, logistic"):
        estimator("svm")
    with pytest.raises(InputError, match="lda does not take C; it takes shrinkage"):
        estimator("lda", C=1.0)
    with pytest.raises(InputError, match="mass-mean does not take C; it takes no setting"):
        estimator("mass-mean", C=1.0)
    x, y = data()
    x[3, 1] = np.nan
    for name in ESTIMATORS:
        with pytest.raises(ValueError, match="NaN"):
            estimator(name).fit(x, y)
