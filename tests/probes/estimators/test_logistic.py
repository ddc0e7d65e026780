"""The batched solver against scikit-learn, column by column."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probes.estimators.logistic import Problem, fit_columns

PENALTIES = (1e-3, 0.1, 10.0)


def data(n: int = 150, d: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=d)
    logits = (x - x.mean(0)) @ rng.normal(size=d) / d
    return x, (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)


def problem(
    x: np.ndarray, y: np.ndarray, rows: list[np.ndarray], dtype: torch.dtype
) -> tuple[Problem, list[tuple[np.ndarray, float]]]:
    """Every set of rows at every penalty, and the list of what each column is."""
    columns = [(some, c) for some in rows for c in PENALTIES]
    used = np.zeros((len(x), len(columns)), dtype=bool)
    for number, (some, _) in enumerate(columns):
        used[some, number] = True
    centre = np.stack([x[some].mean(0) for some, _ in columns], 1)
    scale = np.stack([x[some].std(0) for some, _ in columns], 1)
    penalty = np.array([1 / (c * len(some)) for some, c in columns])
    as_tensor = [torch.tensor(a, dtype=dtype) for a in (x, y, penalty, centre, scale)]
    whole = Problem(as_tensor[0], as_tensor[1], torch.tensor(used), *as_tensor[2:])
    return whole, columns


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-5), (torch.float32, 2e-3)])
def test_every_column_is_scikit_learns(dtype: torch.dtype, close: float) -> None:
    x, y = data()
    rows = [np.arange(150), np.arange(0, 150, 2), np.arange(50, 150)]
    whole, columns = problem(x, y, rows, dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-6
    found = fit_columns(whole, tolerance=tolerance, most_iterations=2000)
    assert (found.gradient <= tolerance).all()
    for number, (some, c) in enumerate(columns):
        scaler = StandardScaler().fit(x[some])
        oracle = LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
        oracle.fit(scaler.transform(x[some]), y[some])
        expected = oracle.coef_[0] / scaler.scale_
        got = found.coef[:, number].double().numpy()
        assert np.linalg.norm(got - expected) <= close * np.linalg.norm(expected)
        margin = x @ got + float(found.intercept[number])
        expected_margin = oracle.decision_function(scaler.transform(x))
        assert np.abs(margin - expected_margin).max() <= close * np.abs(expected_margin).max()


def test_columns_do_not_depend_on_their_company() -> None:
    x, y = data(seed=1)
    whole, _ = problem(x, y, [np.arange(150), np.arange(75)], torch.float64)
    together = fit_columns(whole, tolerance=1e-9, most_iterations=2000)
    for column in range(6):
        alone = fit_columns(
            whole.take(torch.tensor([column])), tolerance=1e-9, most_iterations=2000
        )
        assert torch.allclose(alone.coef[:, 0], together.coef[:, column], atol=1e-7)
    assert together.iterations.min() < together.iterations.max()


def test_separable_classes_converge() -> None:
    x = np.r_[np.ones((20, 3)), -np.ones((20, 3))] + np.random.default_rng(0).normal(
        0, 0.1, (40, 3)
    )
    y = np.r_[np.ones(20), np.zeros(20)].astype(int)
    whole, _ = problem(x, y, [np.arange(40)], torch.float64)
    found = fit_columns(whole, tolerance=1e-8, most_iterations=500)
    assert (found.gradient <= 1e-8).all() and torch.isfinite(found.coef).all()


def test_a_start_is_used_and_giving_up_is_told() -> None:
    x, y = data()
    whole, _ = problem(x, y, [np.arange(150)], torch.float64)
    stopped = fit_columns(whole, tolerance=1e-9, most_iterations=2)
    assert (stopped.iterations == 2).all() and (stopped.gradient > 1e-9).all()
    found = fit_columns(whole, tolerance=1e-9, most_iterations=2000)
    standardised = torch.cat(
        [
            found.coef * whole.scale,
            (found.intercept + (whole.centre * found.coef).sum(0))[None],
        ]
    )
    again = fit_columns(whole, tolerance=1e-8, most_iterations=2000, start=standardised)
    assert (again.iterations <= 1).all()
