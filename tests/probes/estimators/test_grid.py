"""The grid of probes: at every cell it is scikit-learn's probe, and bad input is refused."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.errors import InputError, NumericalError
from probes import ProbeGrid

CS = (1e-3, 1e-1, 10.0)


def activations(
    n: int = 160, grid: tuple[int, ...] = (3, 2), d: int = 12, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A direction that separates the classes the better the later the cell."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = rng.normal(size=(n, *grid, d)) * np.logspace(0, 1, d) + 5
    for order, index in enumerate(np.ndindex(*grid)):
        x[(slice(None), *index)] += 0.3 * order * (2 * y[:, None] - 1) * rng.normal(size=d)
    return x.astype(np.float32), y


def oracle(c: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=10_000))


def test_one_penalty_is_scikit_learns_at_every_cell() -> None:
    x, y = activations()
    test, labels = activations(seed=1)
    probe = ProbeGrid(0.5, tol=1e-6).fit(x, y)
    areas = probe.auroc(test, labels)
    margins = probe.decision_function(test)
    for index in np.ndindex(3, 2):
        cell = (slice(None), *index)
        expected = oracle(0.5).fit(x[cell].astype(float), y)
        scale = expected[0].scale_
        coef = expected[1].coef_[0] / scale
        assert np.linalg.norm(probe.coef_[index] - coef) <= 1e-3 * np.linalg.norm(coef)
        assert margins[cell] == pytest.approx(expected.decision_function(test[cell]), abs=5e-3)
        area = roc_auc_score(labels, expected.decision_function(test[cell]))
        assert abs(areas[index] - area) <= 0.002
    assert (probe.C_ == 0.5).all() and probe.cv_scores_ is None and (probe.n_iter_ > 0).all()


def test_the_penalty_is_the_one_of_cross_validation_in_a_loop() -> None:
    x, y = activations(n=600)  # so that one pair of rows weighs less than the tolerance
    probe = ProbeGrid(Cs=CS, cv=4, tol=1e-6, random_state=3).fit(x, y)
    folds = list(StratifiedKFold(4, shuffle=True, random_state=3).split(x, y))
    for index in np.ndindex(3, 2):
        cell = x[(slice(None), *index)].astype(float)
        scores = np.array(
            [
                [
                    roc_auc_score(
                        y[held], oracle(c).fit(cell[train], y[train]).decision_function(cell[held])
                    )
                    for c in CS
                ]
                for train, held in folds
            ]
        )
        assert probe.cv_scores_[index] == pytest.approx(scores, abs=0.002)
        assert probe.C_[index] == CS[int(probe.cv_scores_[index].mean(0).argmax())]
    alone = ProbeGrid(float(probe.C_[2, 1]), tol=1e-6).fit(x, y)
    assert alone.coef_[2, 1] == pytest.approx(probe.coef_[2, 1], rel=1e-4)


def test_groups_are_not_parted() -> None:
    x, y = activations()
    groups = np.repeat(np.arange(40), 4)
    y = np.tile([0, 0, 1, 1], 40)
    probe = ProbeGrid(Cs=CS, cv=4)
    for train, held in probe._folds(y, groups):
        assert not set(groups[train]) & set(groups[held])
    assert probe.fit(x, y, groups).cv_scores_.shape == (3, 2, 4, 3)


@pytest.mark.parametrize("grid", [(), (2,), (2, 1, 3)])
def test_any_grid(grid: tuple[int, ...]) -> None:
    x, y = activations(grid=grid)
    probe = ProbeGrid(1.0).fit(x, y)
    assert probe.coef_.shape == (*grid, 12) and probe.grid_shape_ == grid
    assert probe.decision_function(x).shape == (160, *grid) == probe.predict_proba(x).shape
    assert np.shape(probe.auroc(x, y)) == grid
    assert probe.score(x[:, ...], y) >= 0.4 if grid == () else True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_precision(dtype: torch.dtype) -> None:
    x, y = activations()
    probe = ProbeGrid(1.0).fit(torch.tensor(x).to(dtype), y)
    expected = ProbeGrid(1.0).fit(torch.tensor(x).to(dtype).float().numpy(), y)
    assert np.array_equal(probe.coef_, expected.coef_)


def test_labels_may_be_words() -> None:
    x, y = activations()
    words = np.array(["harmless", "harmful"])[y]
    probe = ProbeGrid(1.0).fit(x, words)
    assert probe.classes_.tolist() == ["harmful", "harmless"]
    assert set(np.unique(probe.predict(x))) <= set(probe.classes_)
    assert probe.auroc(x, words)[2, 1] > 0.9  # of "harmless", the second class


def test_a_constant_feature_is_no_trouble() -> None:
    x, y = activations()
    x[..., 3] = 7.0
    assert np.abs(ProbeGrid(1.0).fit(x, y).coef_[..., 3]).max() < 1e-6
    assert np.isfinite(ProbeGrid(1.0, standardize=False).fit(x, y).coef_).all()


def test_shuffled_labels_give_chance() -> None:
    x, y = activations(n=400)
    shuffled = np.random.default_rng(5).permutation(y)
    probe = ProbeGrid(0.01).fit(x[:200], shuffled[:200])
    assert np.abs(probe.auroc(x[200:], shuffled[200:]) - 0.5).max() < 0.15


def test_scikit_learns_conventions() -> None:
    x, y = activations()
    probe = ProbeGrid(1.0, cv=3)
    assert clone(probe).get_params() == probe.get_params()
    with pytest.raises(NotFittedError):
        probe.decision_function(x)
    assert probe.fit(x, y) is probe


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("nan", NumericalError, "2 rows of activations are NaN or infinite, first row 3"),
        ("one class", InputError, "the labels hold 1: 0"),
        ("three classes", InputError, "the labels hold 3"),
        ("labels missing", InputError, "need as many labels"),
        ("integers", InputError, "must be floats"),
        ("few", InputError, "too few for 5 folds"),
    ],
)
def test_bad_input(change: str, error: type[Exception], said: str) -> None:
    x, y = activations()
    if change == "nan":
        x[3, 0, 0, 0], x[5, 1, 1, 2] = np.nan, np.inf
    if change == "one class":
        y = np.zeros_like(y)
    if change == "three classes":
        y = np.arange(len(y)) % 3
    if change == "labels missing":
        y = y[:-1]
    if change == "integers":
        x = x.astype(int)
    if change == "few":
        y = np.zeros_like(y)
        y[:3] = 1
    with pytest.raises(error, match=said):
        ProbeGrid(Cs=CS).fit(x, y)


def test_other_activations_are_refused() -> None:
    x, y = activations()
    probe = ProbeGrid(1.0).fit(x, y)
    with pytest.raises(InputError, match=r"do not fit .* \(n, 3, 2, 12\)"):
        probe.decision_function(x[..., :5])


def test_not_converging_is_a_warning() -> None:
    x, y = activations()
    with pytest.warns(ConvergenceWarning, match="6 of 6 cells did not converge in 1 iterations"):
        ProbeGrid(10.0, max_iter=1).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProbeGrid(10.0).fit(x, y)
