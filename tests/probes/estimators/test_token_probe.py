"""`TokenProbe`: one marked token in a long row, and the monitor beside the whole row."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp.errors import InputError, NumericalError
from probes.estimators.aggregation import (
    Aggregator,
    Attention,
    Ema,
    Last,
    Max,
    Mean,
    MultiMax,
    RollingMean,
)
from probes.estimators.token_probe import TokenProbe

WIDTH = 12
EVERY: list[Aggregator] = [Mean(), Last(), Max(), Ema(), RollingMean(5), Attention(), MultiMax(2)]


def marked(
    n: int, low: int, high: int, seed: int, tokens: int = 2, size: float = 6.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of noise; in positive ones a few neighbouring tokens go along one direction."""
    rng = np.random.default_rng(seed)
    direction = np.linalg.qr(np.random.default_rng(99).normal(size=(WIDTH, 1)))[0][:, 0]
    y = rng.permutation(np.arange(n) % 2)
    rows = []
    for label in y:
        row = rng.normal(size=(int(rng.integers(low, high)), WIDTH))
        at = int(rng.integers(0, len(row) - tokens))
        row[at : at + tokens] += size * label * direction
        rows.append(row.astype(np.float32))
    return rows, y


def auroc(probe: TokenProbe, rows: list[np.ndarray], y: np.ndarray) -> float:
    return float(roc_auc_score(y, probe.decision_function(rows)))


def test_maximum_and_attention_find_what_the_mean_dilutes() -> None:
    rows, y = marked(160, 10, 30, seed=0)
    long, wanted = marked(120, 300, 400, seed=1)
    found = {
        how.name: auroc(TokenProbe(how, C=1.0).fit(rows, y), long, wanted)
        for how in (Mean(), Max(), Attention(), MultiMax(2), RollingMean(2))
    }
    assert found["mean"] < 0.85
    for name in ("max", "attention", "multimax", "rolling-mean"):
        assert found[name] > found["mean"] + 0.1, found
    assert found["max"] > 0.97 and found["multimax"] > 0.97


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how.name)
def test_the_monitor_gives_the_score_of_every_prefix(how: Aggregator) -> None:
    rows, y = marked(40, 3, 12, seed=2)
    probe = TokenProbe(how).fit(rows, y)
    for row in rows[:4]:
        monitor = probe.stream()
        for position, token in enumerate(row):
            found = monitor.update(torch.as_tensor(token)[None])
            whole = probe.decision_function([row[: position + 1]])
            assert found.tolist() == pytest.approx(whole.tolist(), rel=1e-4, abs=1e-4)


def test_a_monitor_of_several_rows_takes_padding() -> None:
    rows, y = marked(40, 3, 12, seed=3)
    probe = TokenProbe(Ema()).fit(rows, y)
    some = rows[:5]
    longest = max(map(len, some))
    monitor = probe.stream(batch=5)
    for position in range(longest):
        # Left-padded, as rows are for generation.
        places = [position - (longest - len(row)) for row in some]
        states = np.stack([row[max(p, 0)] for row, p in zip(some, places, strict=True)])
        real = torch.tensor([p >= 0 for p in places])
        value = monitor.update(torch.as_tensor(states), real)
        assert value.isnan().tolist() == [p < 0 for p in places]
    assert monitor.value.tolist() == pytest.approx(probe.decision_function(some), abs=1e-4)


def test_the_mean_is_logistic_regression_on_means() -> None:
    rows, y = marked(100, 4, 9, seed=4, size=2.0)
    probe = TokenProbe(C=0.5, standardize=False, tol=1e-6).fit(rows, y)
    means = np.stack([row.mean(0) for row in rows])
    wanted = LogisticRegression(C=0.5, tol=1e-8).fit(means, y)
    assert probe.coef_[:, 0] == pytest.approx(wanted.coef_[0], abs=2e-4)
    assert probe.intercept_[0] == pytest.approx(wanted.intercept_[0], abs=2e-4)


def test_standardisation_is_folded_back() -> None:
    rows, y = marked(80, 4, 9, seed=5)
    scale = np.logspace(-1, 1, WIDTH).astype(np.float32)
    moved = [row * scale + 3 for row in rows]
    first, second = TokenProbe().fit(rows, y), TokenProbe().fit(moved, y)
    assert second.coef_ * scale[:, None] == pytest.approx(first.coef_, abs=2e-3)
    assert second.decision_function(moved) == pytest.approx(first.decision_function(rows), abs=1e-2)


@pytest.mark.parametrize("how", [Mean(), Max(), Ema()], ids=lambda how: how.name)
def test_the_window_loss_learns_what_few_tokens_say(how: Aggregator) -> None:
    rows, y = marked(160, 40, 60, seed=6, tokens=4)
    long, wanted = marked(100, 200, 300, seed=7, tokens=4)
    plain = TokenProbe().fit(rows, y)
    windows = TokenProbe(how, loss="windows", window=4).fit(rows, y)
    assert auroc(windows, rows, y) > 0.9
    if how != Mean():
        assert auroc(windows, long, wanted) > auroc(plain, long, wanted) + 0.1


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how.name)
def test_probabilities_average_to_the_share_of_positives(how: Aggregator) -> None:
    rows, y = marked(60, 3, 20, seed=8)
    probe = TokenProbe(how).fit(rows[:45], y[:45])
    found = probe.predict_proba(rows[:45])
    assert found[:, 1].mean() == pytest.approx(y[:45].mean(), abs=1e-4)
    assert found.sum(1) == pytest.approx(np.ones(45))
    assert np.array_equal(probe.predict(rows), (probe.decision_function(rows) > 0).astype(int))


def test_a_seed_and_the_order_of_rows() -> None:
    rows, y = marked(60, 3, 20, seed=9)
    order = np.random.default_rng(0).permutation(60)
    first = TokenProbe(Attention(2), random_state=3).fit(rows, y)
    again = clone(first).fit(rows, y)
    assert np.array_equal(first.coef_, again.coef_)
    probe = TokenProbe(Max()).fit(rows, y)
    moved = TokenProbe(Max()).fit([rows[i] for i in order], y[order])
    assert moved.decision_function(rows) == pytest.approx(probe.decision_function(rows), abs=5e-2)
    mixed = probe.decision_function([rows[i] for i in order])
    assert mixed == pytest.approx(probe.decision_function(rows)[order], abs=1e-5)


def test_labels_of_any_kind() -> None:
    rows, y = marked(40, 3, 9, seed=10)
    names = np.where(y == 1, "harmful", "benign")
    probe = TokenProbe().fit(rows, names)
    assert probe.classes_.tolist() == ["benign", "harmful"]
    assert set(probe.predict(rows)) == {"benign", "harmful"}


def test_an_early_stop_is_told() -> None:
    rows, y = marked(40, 3, 9, seed=11)
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iterations"):
        TokenProbe(Attention(), max_iter=1).fit(rows, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenProbe(Attention(), max_iter=1000).fit(rows, y)


def test_bad_input_is_one_sentence() -> None:
    rows, y = marked(20, 3, 9, seed=12)
    bad: list[Any] = [row.copy() for row in rows]
    bad[3][1, 2] = np.nan
    with pytest.raises(NumericalError, match="row 3 holds NaN"):
        TokenProbe().fit(bad, y)
    probe = TokenProbe().fit(rows, y)
    with pytest.raises(NumericalError, match="row 3 holds NaN"):
        probe.decision_function(bad)
    with pytest.raises(NumericalError, match="states of a token are NaN"):
        probe.stream().update(torch.full((1, WIDTH), torch.nan))
    with pytest.raises(InputError, match=r"row 1 has the shape \(0, 12\)"):
        TokenProbe().fit([rows[0], rows[1][:0]], y[:2])
    with pytest.raises(InputError, match="the labels hold 1"):
        TokenProbe().fit(rows, np.ones(20))
    with pytest.raises(InputError, match="20 rows need as many labels"):
        TokenProbe().fit(rows, y[:5])
    with pytest.raises(InputError, match="there is no row"):
        TokenProbe().fit([], [])
    with pytest.raises(InputError, match="states are 3 wide; the probe was fitted on 12"):
        probe.decision_function([row[:, :3] for row in rows])
    with pytest.raises(InputError, match="'windows' does not go with attention"):
        TokenProbe(Attention(), loss="windows").fit(rows, y)
