"""Nulls: their law, their calibration, and the fast path against a loop over single probes."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from interp.errors import InputError, NumericalError
from probes.estimators.mass_mean import MassMean
from probes.statistics import nulls
from probes.statistics.nulls import (
    MaxNull,
    quantile_in,
    random_direction_null,
    random_vectors,
    selectivity,
    shuffled_label_null,
)

HALVES = np.repeat([True, False], 20)


def slow_null(
    train: np.ndarray, test: np.ndarray, on_train: np.ndarray, on_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A mass-mean probe fitted for every shuffle and cell. Maxima, and all areas by cell."""
    cells = [(i, j) for i in range(train.shape[1]) for j in range(train.shape[2])]
    values = np.array(
        [
            [
                roc_auc_score(z, MassMean().fit(train[:, i, j], y).decision_function(test[:, i, j]))
                for i, j in cells
            ]
            for y, z in zip(on_train, on_test, strict=True)
        ]
    )
    return values.max(1), values


@pytest.mark.parametrize("clusters", [None, "pure", "mixed"])
def test_the_max_null_equals_a_loop_over_probes(clusters: str | None) -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(40, 2, 3, 5)).astype(np.float32) + 100  # far from the origin
    test = rng.normal(size=(30, 2, 3, 5)).astype(np.float32) + 100
    test[:, 1, 2] = test[:, 1, 2].round()  # with ties
    train_y, test_y = HALVES, np.repeat([True, False], [10, 20])
    names: dict[str, Any] = {
        "pure": (np.arange(40) // 4, np.arange(30) // 2),
        "mixed": (np.arange(40) % 20, np.arange(30) % 10),
    }
    groups = names[clusters] if clusters else (None, None)
    found = shuffled_label_null(
        train, train_y, test, test_y, permutations=23, seed=5,
        train_clusters=groups[0], test_clusters=groups[1],
    )  # fmt: skip
    again = np.random.default_rng(5)
    on_train = nulls._shuffled(train_y, groups[0], 23, again)
    on_test = nulls._shuffled(test_y, groups[1], 23, again)
    maxima, values = slow_null(train, test, on_train, on_test)
    assert np.allclose(found.maxima, maxima, atol=1e-12)
    expected = np.sort(values, axis=0)[int(np.ceil(0.95 * 24)) - 1]
    assert np.allclose(found.cell_q95, expected.reshape(2, 3), atol=1e-12)
    assert found.n == 23 and found.q95 == np.sort(maxima)[22]


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 3, 4)), rng.normal(size=(40, 3, 4))
    arguments: dict[str, Any] = {"permutations": 60, "seed": 1}
    whole = shuffled_label_null(train, HALVES, test, HALVES, **arguments)
    directions = random_direction_null(train[:, 0], HALVES, kind="isotropic")
    monkeypatch.setattr(nulls, "_CHUNK", 7)
    parts = shuffled_label_null(train, HALVES, test, HALVES, **arguments)
    assert np.allclose(whole.maxima, parts.maxima) and np.allclose(whole.cell_q95, parts.cell_q95)
    assert len(random_direction_null(train[:, 0], HALVES, kind="isotropic")) == len(directions)


def test_shuffles_keep_what_is_not_exchangeable() -> None:
    rng = np.random.default_rng(0)
    pure, mixed = np.arange(40) // 4, np.arange(40) % 20
    whole = nulls._shuffled(HALVES, pure, 200, rng).reshape(200, 10, 4)
    assert (whole == whole[:, :, :1]).all() and (whole[:, :, 0].sum(1) == 5).all()
    twins = nulls._shuffled(HALVES, mixed, 200, rng)
    assert (twins[:, :20] != twins[:, 20:]).all()
    free = nulls._shuffled(HALVES, None, 200, rng)
    assert (free.sum(1) == 20).all() and not (free[:, :20] != free[:, 20:]).all()
    for labels in (whole[:, :, 0], twins, free):
        assert np.allclose(labels.mean(0), 0.5, atol=0.15)


def best(train: np.ndarray, test: np.ndarray) -> tuple[float, np.ndarray]:
    cells = np.array(
        [
            roc_auc_score(HALVES, MassMean().fit(train[:, c], HALVES).decision_function(test[:, c]))
            for c in range(train.shape[1])
        ]
    )
    return float(cells.max()), cells


@pytest.mark.slow
def test_the_max_null_is_calibrated_and_a_cell_alone_is_not() -> None:
    """Over 200 grids of noise the best cell exceeds its 95th percentile in about 5 %."""
    above, uncorrected, quantiles = [], [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(80, 1, 6))  # cells of a grid resemble each other
        states = shared + rng.normal(size=(80, 12, 6))
        found = shuffled_label_null(
            states[:40], HALVES, states[40:], HALVES, permutations=199, seed=seed
        )
        value, cells = best(states[:40], states[40:])
        above.append(value > found.q95)
        quantiles.append(found.quantile(value))
        uncorrected.append((cells > found.cell_q95).any())
    assert 0.02 <= np.mean(above) <= 0.09
    assert np.mean(uncorrected) > 3 * np.mean(above)
    assert kstest(quantiles, "uniform").pvalue > 0.01


def test_whole_clusters_keep_the_null_honest() -> None:
    """Ten templates of one class each: prompts are no independent cases, and the null knows."""
    alone, clustered = [], []
    template = np.arange(40) // 4
    for seed in range(100):
        rng = np.random.default_rng(seed)
        states = rng.normal(size=(20, 1, 3))[np.arange(80) // 4] + 0.1 * rng.normal(size=(80, 1, 3))
        value, _ = best(states[:40], states[40:])
        arguments: dict[str, Any] = {"permutations": 99, "seed": seed}
        sides = (states[:40], HALVES, states[40:], HALVES)
        alone.append(value > shuffled_label_null(*sides, **arguments).q95)
        names = {"train_clusters": template, "test_clusters": template}
        clustered.append(value > shuffled_label_null(*sides, **arguments, **names).q95)
    assert np.mean(alone) > 0.15 and np.mean(clustered) < 0.12


def test_a_planted_direction_stands_out_of_every_null() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(80, 4, 16))
    states[:, 2, 3] += 6.0 * np.tile(HALVES, 2)
    found = shuffled_label_null(states[:40], HALVES, states[40:], HALVES, permutations=199)
    value, cells = best(states[:40], states[40:])
    assert cells.argmax() == 2 and value > found.q95
    assert found.quantile(value) == 199 / 200
    isotropic = random_direction_null(states[:, 2], np.tile(HALVES, 2), kind="isotropic")
    covariance = random_direction_null(states[:, 2], np.tile(HALVES, 2), kind="covariance")
    assert value > np.quantile(isotropic, 0.95)
    # The covariance holds what parts the classes, so its directions read them more often.
    assert covariance.mean() > isotropic.mean() + 0.1


@pytest.mark.parametrize("kind", ["isotropic", "covariance"])
def test_random_directions_are_folded_and_equal_a_loop(kind: str) -> None:
    rng = np.random.default_rng(3)
    states = rng.normal(size=(40, 6)) * np.array([5, 1, 1, 1, 1, 1]) + 7
    null = random_direction_null(states, HALVES, kind=kind, seed=4)  # type: ignore[arg-type]
    assert null.shape == (1000,) and (null >= 0.5).all()
    centred = states - states.mean(0)
    directions = nulls._directions(centred, 500, kind, np.random.default_rng(4))  # type: ignore[arg-type]
    for i in (0, 1, 499):
        area = roc_auc_score(HALVES, states @ directions[:, i])
        assert null[i] == pytest.approx(max(area, 1 - area))


def test_random_vectors_have_the_norm_and_the_law_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([4.0, 2.0, 1.0, 0.5])
    states = rng.normal(size=(3000, 4)) * spread + 9
    like = np.array([0.0, 3.0, 4.0, 0.0])
    isotropic = random_vectors(5000, like, seed=1)
    covariance = random_vectors(5000, like, states=states, kind="covariance", seed=1)
    for drawn in (isotropic, covariance):
        assert np.allclose(np.linalg.norm(drawn, axis=1), 5.0)
        assert np.allclose(drawn.mean(0), 0, atol=0.15)
    assert np.allclose((isotropic**2).mean(0), 25 / 4, rtol=0.06)
    assert (np.diff((covariance**2).mean(0)) < 0).all()
    # Before normalising, the drawn directions have the covariance of the states.
    raw = nulls._directions(states - states.mean(0), 5000, "covariance", np.random.default_rng(2))
    assert np.allclose(np.cov(raw), np.cov(states.T), atol=0.6)


def test_quantiles_count_the_value_in() -> None:
    null = np.arange(99) / 100
    assert quantile_in(2.0, null) == 0.99
    assert quantile_in(-1.0, null) == 0.0
    assert quantile_in(0.5, null) == 0.5
    assert MaxNull(null, np.zeros(2)).q95 == 0.94


def typed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States with their type as a place on a circle, and their class in a third coordinate."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 10, n)
    positive = rng.random(n) < 0.5
    states = rng.normal(size=(n, 3)) * 0.05
    states[:, 0] += 3 * np.cos(types * 2 * np.pi / 10)
    states[:, 1] += 3 * np.sin(types * 2 * np.pi / 10)
    states[:, 2] += 2.0 * positive
    return states, positive, types


def test_selectivity_tells_a_probe_that_learns_types_by_heart() -> None:
    train, test = typed(300, 0), typed(200, 1)
    simple = selectivity(*train, *test)
    by_heart = selectivity(*train, *test, probe=KNeighborsClassifier(3))
    assert simple.accuracy > 0.95 and by_heart.accuracy > 0.95
    assert by_heart.control_accuracy > 0.95 and simple.control_accuracy < 0.85
    assert by_heart.value < 0.05 and simple.value > 0.15
    for found in (simple, by_heart):
        assert found.interval[0] <= found.value <= found.interval[1]
        assert found.interval[0] < found.interval[1]
        assert (found.n, found.types) == (200, 10)
    assert simple == selectivity(*train, *test)


def test_selectivity_at_the_edge_keeps_an_interval() -> None:
    """Perfect on both tasks: the bootstrap has no spread, and Newcombe's stands in."""
    states, positive, types = np.eye(10).repeat(4, 0), np.arange(40) % 8 < 4, np.arange(40) // 4
    found = selectivity(
        states, positive, types, states, positive, types, probe=LogisticRegression(C=1e6)
    )
    assert found.value == 0.0
    assert -0.35 < found.interval[0] < -0.1 and 0.1 < found.interval[1] < 0.35


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"permutations": 18}, "18 shuffles have no 95th percentile"),
        ({"train_positive": np.ones(40, bool)}, "all training states are of one class"),
        ({"train_clusters": np.repeat([0, 1], 20)}, "shuffled in 2 ways only"),
        (
            {"train_clusters": np.r_[np.arange(30), np.full(10, 9)]},
            "29 of 30 clusters hold one class and the others both",
        ),
    ],
)
def test_what_is_refused(change: dict[str, Any], said: str) -> None:
    states = np.random.default_rng(0).normal(size=(40, 2, 3))
    usual = {"train": states, "train_positive": HALVES, "test": states, "test_positive": HALVES}
    with pytest.raises(InputError, match=said):
        shuffled_label_null(**{**usual, **change})


def test_what_random_directions_refuse() -> None:
    states = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(InputError, match="999 random directions are too few"):
        random_direction_null(states, HALVES, kind="isotropic", count=999)
    with pytest.raises(InputError, match="all states are of one class"):
        random_direction_null(states, ~np.zeros(40, bool), kind="isotropic")
    with pytest.raises(InputError, match="need states"):
        random_vectors(3, states[0], kind="covariance")
    with pytest.raises(InputError, match="all states are the same"):
        random_vectors(3, states[0], states=np.ones((5, 3)), kind="covariance")
    with pytest.raises(InputError, match="of one type"):
        selectivity(states, HALVES, np.zeros(40), states, HALVES, np.arange(40.0))


def test_nan_is_named() -> None:
    states = np.random.default_rng(0).normal(size=(40, 2, 3))
    states[3, 1, 0] = np.nan
    with pytest.raises(NumericalError, match="NaN or infinite"):
        shuffled_label_null(states, HALVES, states, HALVES)
    with pytest.raises(NumericalError, match="NaN or infinite"):
        random_direction_null(states[:, 1], HALVES, kind="covariance")
    with pytest.raises(NumericalError, match="NaN or infinite"):
        random_vectors(3, states[3, 1])


def test_labels_must_be_as_many_as_states() -> None:
    """Under test the shapes in the signature are checked first; a user gets this sentence."""
    with pytest.raises(InputError, match="40 test states need as many classes; got 39"):
        nulls._require_classes(HALVES[:39], 40, "test states")


def test_an_unknown_kind_is_refused(as_users_call: None) -> None:
    wrong: Any = "isotropc"
    states = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(InputError, match="kind is the string 'isotropc'; it must be one of isotro"):
        random_direction_null(states, np.arange(20) < 10, kind=wrong)
    with pytest.raises(InputError, match="kind is the string 'isotropc'"):
        random_vectors(2, np.ones(4), states=states, kind=wrong)
