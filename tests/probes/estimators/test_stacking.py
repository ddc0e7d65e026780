"""Stacked probes: better than one layer where layers know different things, and no leak."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.errors import InputError, NumericalError
from probes import ProbeGrid
from probes.estimators.linear import Logistic
from probes.estimators.stacking import StackedProbe, concatenated, folds

LAYERS, WIDTH = 6, 10


def complementary(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Layers 1, 3 and 4 each see the class through noise of their own; the others see nothing."""
    directions = np.random.default_rng(7).normal(size=(LAYERS, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, LAYERS, WIDTH))
    for layer in (1, 3, 4):
        x[:, layer] += 1.2 * y[:, None] * directions[layer]
    return x.astype(np.float32), y


def test_beats_every_single_layer_where_layers_know_different_things() -> None:
    x, y = complementary(400, seed=0)
    test, wanted = complementary(1000, seed=1)
    probe = StackedProbe(k=3).fit(x, y)
    assert probe.layers_.tolist() == [1, 3, 4]
    stacked = roc_auc_score(wanted, probe.decision_function(test))
    single = ProbeGrid().fit(x, y).auroc(test, wanted)
    together = Logistic().fit(concatenated(x), y).decision_function(concatenated(test))
    assert stacked > single.max() + 0.06
    assert roc_auc_score(wanted, together) > single.max() + 0.05


def test_the_whole_is_the_sum_of_its_layer_probes() -> None:
    x, y = complementary(200, seed=2)
    probe = StackedProbe(k=2, C=0.1).fit(x, y)
    assert probe.coef_.shape == (LAYERS, WIDTH)
    left_out = np.setdiff1d(np.arange(LAYERS), probe.layers_)
    assert (probe.coef_[left_out] == 0).all()
    final = ProbeGrid(C=0.1).fit(x[:, probe.layers_], y).decision_function(x[:, probe.layers_])
    # What remains is the intercept of the regression over the scores: one number for all rows.
    rest = probe.decision_function(x) - (final / final.std(0)) @ probe.weights_
    assert np.ptp(rest) < 1e-4
    assert set(probe.predict(x)) == {0, 1}


def test_layer_probes_of_unlike_penalties_weigh_alike() -> None:
    """Layers of equal signal share the weight, whatever penalty each fold has chosen."""
    found = []
    for seed in range(3):
        x, y = complementary(600, seed=seed)
        test, wanted = complementary(1000, seed=100 + seed)
        probe = StackedProbe(k=3).fit(x, y)
        assert probe.weights_.min() > 0.5 * probe.weights_.max()
        fixed = StackedProbe(k=3, C=0.1).fit(x, y)
        found.append(
            roc_auc_score(wanted, probe.decision_function(test))
            - roc_auc_score(wanted, fixed.decision_function(test))
        )
    assert min(found) > -0.02


def test_random_labels_score_as_chance_on_held_out_rows() -> None:
    rng = np.random.default_rng(3)
    found = []
    for seed in range(12):
        x = rng.normal(size=(80, 4, 30)).astype(np.float32)
        y = rng.permutation(np.arange(80) % 2)
        probe = StackedProbe(k=2, C=1.0, random_state=seed).fit(x[:40], y[:40])
        found.append(roc_auc_score(y[40:], probe.decision_function(x[40:])))
        # Fitted rows could be told at will: 40 rows in 30 dimensions.
        assert probe.layer_auroc_.max() < 0.9
    assert abs(np.mean(found) - 0.5) < 0.08


def test_choice_and_regression_see_no_score_of_a_row_that_was_fitted() -> None:
    """Every pair of equal rows has one random label: only a leak between folds can tell it."""
    rng = np.random.default_rng(4)
    half = rng.normal(size=(60, 3, 40)).astype(np.float32)
    x = np.concatenate([half, half])
    y = np.tile(rng.permutation(np.arange(60) % 2), 2)
    groups = np.tile(np.arange(60), 2)
    leaking = StackedProbe(k=1, C=1.0).fit(x, y)
    grouped = StackedProbe(k=1, C=1.0).fit(x, y, groups)
    assert leaking.layer_auroc_.max() > 0.9
    assert grouped.layer_auroc_.max() < 0.75


@pytest.mark.parametrize("grouped", [True, False])
def test_folds_part_no_group_and_cover_all(grouped: bool) -> None:
    y = np.arange(60) % 2
    groups = np.arange(60) // 3 if grouped else None
    found = folds(y, groups, 4)
    assert sorted(np.concatenate([held for _, held in found])) == list(range(60))
    for train, held in found:
        assert set(train).isdisjoint(held) and len(set(y[held])) == 2
        if groups is not None:
            assert set(groups[train]).isdisjoint(groups[held])


def test_fewer_layers_than_asked_for_are_all_taken() -> None:
    x, y = complementary(60, seed=5)
    assert StackedProbe(k=9, C=1.0).fit(x, y).layers_.tolist() == list(range(LAYERS))


def test_bad_input_is_one_sentence() -> None:
    x, y = complementary(40, seed=6)
    with pytest.raises(InputError, match=r"takes \(n, layers, width\) and 1 layer or more"):
        StackedProbe().fit(x[:, 0], y)
    with pytest.raises(InputError, match="of two classes"):
        StackedProbe().fit(x, np.zeros(40))
    with pytest.raises(InputError, match="the smaller class has 2 rows, too few for 5 folds"):
        StackedProbe().fit(x, np.arange(40) < 2)
    with pytest.raises(InputError, match="there are 3 groups, too few for 5 folds"):
        StackedProbe().fit(x, y, np.arange(40) % 3)
    with pytest.raises(InputError, match="a fold holds one class only"):
        StackedProbe().fit(x, y, np.where(y == 1, np.arange(40), -1))
    with pytest.raises(InputError, match=r"do not fit a stacked probe .* \(n, 6, 10\)"):
        StackedProbe(C=1.0).fit(x, y).decision_function(x[:, :2])
    x[3, 2, 1] = np.nan
    with pytest.raises(NumericalError, match="NaN"):
        StackedProbe().fit(x, y)
