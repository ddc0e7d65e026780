"""Latent Guard: the published score by a slow loop, nearest centroids, and ours."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from interp.errors import InputError, NumericalError
from probes.guards.latent_guard import LatentGuard, middle_layers

LAYERS, WIDTH = 10, 6


def states(n: int = 40, seed: int = 0, common: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes a little apart, far from the origin on the same side of it."""
    rng = np.random.default_rng(seed)
    harmful = np.arange(n) % 2 == 0
    apart = rng.normal(size=(LAYERS, WIDTH))
    x = (
        rng.normal(size=(n, LAYERS, WIDTH))
        + common
        + np.where(harmful, 1, -1)[:, None, None] * (apart / 2)
    )
    return x.astype(np.float32), harmful


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def slow_score(
    x: np.ndarray, harmful: np.ndarray, row: np.ndarray, layers: range, centred: bool
) -> float:
    """Eq. 3 of the paper, term by term; centred if asked for."""
    terms = []
    for layer in layers:
        bad, good = (x[side, layer].astype(float).mean(0) for side in (harmful, ~harmful))
        middle = (bad + good) / 2 if centred else np.zeros(WIDTH)
        h = row[layer] - middle
        terms.append(cosine(h, bad - middle) - cosine(h, good - middle))
    return float(np.mean(terms))


@pytest.mark.parametrize("paper", [True, False])
def test_the_score_is_the_definition(paper: bool) -> None:
    x, harmful = states()
    new, _ = states(5, seed=1)
    layers = range(LAYERS) if paper else range(2, 8)
    guard = LatentGuard(paper_exact=paper).fit(x, harmful)
    assert guard.layers_.tolist() == list(layers)
    expected = [slow_score(x, harmful, row, layers, not paper) for row in new]
    np.testing.assert_allclose(guard.decision_function(new), expected, atol=1e-12)


def test_the_published_guard_is_the_nearest_centroid() -> None:
    """Of unit states, all layers side by side, to the unit centroids."""
    x, harmful = states()
    guard = LatentGuard(paper_exact=True).fit(x, harmful)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    centroids = np.stack([x[side].astype(float).mean(0) for side in (~harmful, harmful)])
    centroids /= np.linalg.norm(centroids, axis=-1, keepdims=True)
    distances = ((unit[:, None] - centroids) ** 2).sum((2, 3))
    np.testing.assert_array_equal(guard.predict(x), distances.argmin(1) == 1)


def test_centring_widens_the_margin() -> None:
    x, harmful = states()
    margins = []
    for paper in (True, False):
        scores = LatentGuard(paper_exact=paper).fit(x, harmful).decision_function(x)
        margins.append(scores[harmful].mean() - scores[~harmful].mean())
    assert margins[1] > 3 * margins[0]


def test_a_score_of_zero_is_harmful_as_published() -> None:
    x = np.zeros((2, 1, 2)) + np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    guard = LatentGuard(paper_exact=True).fit(x, [True, False])
    assert guard.decision_function(np.ones((1, 1, 2)))[0] == 0
    assert guard.predict(np.ones((1, 1, 2)))[0]


@pytest.mark.parametrize(
    ("count", "kept"), [(1, [0]), (2, [0, 1]), (3, [1]), (4, [1, 2]), (10, [2, 3, 4, 5, 6, 7])]
)
def test_middle_layers(count: int, kept: list[int]) -> None:
    assert middle_layers(count).tolist() == kept


def test_a_fifth_is_dropped_of_many_layers() -> None:
    assert (middle_layers(32)[[0, -1]] == [6, 25]).all()
    assert all(len(middle_layers(count)) >= 1 for count in range(1, 200))


def test_a_layer_that_says_nothing_adds_nothing() -> None:
    """The same state for all prompts has centroids without a difference, hence no cosine."""
    x, harmful = states()
    same = x.copy()
    same[:, 4] = 7.0
    scores = LatentGuard().fit(same, harmful).decision_function(same)
    assert np.isfinite(scores).all()
    expected = [slow_score(x, harmful, row, range(2, 8), True) for row in x]
    fourth = [slow_score(x, harmful, row, range(4, 5), True) for row in x]
    np.testing.assert_allclose(scores, np.array(expected) - np.array(fourth) / 6, atol=1e-12)


def test_scikit_learn_can_clone_it() -> None:
    assert clone(LatentGuard(paper_exact=True)).get_params() == {"paper_exact": True}
    x, harmful = states()
    assert LatentGuard().fit(x, harmful).score(x, harmful) > 0.9


def bad_nan() -> tuple[Any, Any]:
    x, harmful = states()
    x[3, 5, 0] = np.nan
    return x, harmful


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (lambda: (np.zeros((4, 3)), [0, 1, 0, 1]), InputError, "needs states"),
        (lambda: (np.zeros((0, 3, 2)), []), InputError, "at least one row"),
        (lambda: (states()[0], np.ones(40, bool)), InputError, "no harmless prompt"),
        (lambda: (states()[0], np.zeros(40, bool)), InputError, "no harmful prompt"),
        (lambda: (states()[0], np.zeros(39, bool)), InputError, "as many classes"),
        (lambda: (states()[0], ["harmful", "harmless"] * 20), InputError, "True for harmful"),
        (lambda: (np.ones((4, 3, 2)), [0, 1, 0, 1]), InputError, "the same centroids"),
        (bad_nan, NumericalError, "row 3 at entry 5"),
    ],
)
def test_refused(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        LatentGuard().fit(*given())


def test_states_of_another_shape() -> None:
    guard = LatentGuard().fit(*states())
    with pytest.raises(InputError, match=r"fitted on \(n, 10, 6\)"):
        guard.decision_function(np.ones((2, LAYERS, WIDTH + 1)))
