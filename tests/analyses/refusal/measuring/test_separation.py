"""Separation by layer and position: its nulls against slow references."""

import numpy as np
import pytest

from analyses.refusal.measuring import separation
from interp.capture.prompt_states import PromptStates
from probes.directions.directions import Cells, Directions, refusal_directions
from probes.statistics.metrics import auroc


def states(values: np.ndarray) -> PromptStates:
    layers, positions = values.shape[1:3]
    return PromptStates(
        values.astype(np.float32),
        tuple(range(layers)),
        tuple(range(-positions, 0)),
        "resid_pre",
    )


def drawn(n: int, seed: int, cells: Cells, shift: float = 0.0) -> np.ndarray:
    """States in which harmfulness is large and refusal is worth `shift`."""
    values = np.random.default_rng(seed).normal(size=(n, 2, 2, 6))
    values[..., 0] += 3.0 * cells.harmful[:, None, None]
    values[..., 1] += shift * cells.refused[:, None, None]
    return values


def four_cells(n: int, seed: int) -> Cells:
    rng = np.random.default_rng(seed)
    harmful = np.arange(n) % 2 == 0
    refused = rng.random(n) < np.where(harmful, 0.8, 0.2)
    return Cells(harmful, refused)


def test_within_strata_harmfulness_does_not_count() -> None:
    cells = four_cells(400, 0)
    scores = cells.harmful.astype(float)
    assert auroc(scores, cells.refused).value > 0.7
    assert separation.within_strata(scores, cells.refused, cells.harmful) == 0.5
    right = cells.refused.astype(float)
    assert separation.within_strata(right, cells.refused, cells.harmful) == 1.0
    assert separation.within_strata(right, cells.harmful, cells.harmful) is None


def test_within_strata_leaves_a_stratum_of_one_class_out() -> None:
    harmful = np.array([True, True, True, False, False])
    refused = np.array([True, True, False, False, False])
    scores = np.array([3.0, 1.0, 2.0, 9.0, 9.0])
    assert separation.within_strata(scores, refused, harmful) == 0.5


@pytest.mark.parametrize("empty", [False, True])
def test_weights_are_those_of_the_refusal_direction(empty: bool) -> None:
    cells = four_cells(60, 1)
    if empty:  # no harmless prompt is refused, so the two sides are compared as they are
        cells = Cells(cells.harmful, cells.refused & cells.harmful)
    values = drawn(60, 2, cells, 1.0)
    made = refusal_directions(states(values), cells)
    weighted = np.einsum("n,nlpd->lpd", separation._weights(cells), values.astype(np.float32))
    assert weighted == pytest.approx(made.vectors, abs=1e-6)


def test_the_null_within_strata_equals_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separation, "PERMUTATIONS", 39)
    fit, held = four_cells(40, 1), four_cells(30, 2)
    train, test = drawn(40, 3, fit, 1.0), drawn(30, 4, held, 1.0)
    fast = separation.within_strata_null(train, fit, test, held, 7)
    rng = np.random.default_rng(7)
    fits = [separation._shuffled(fit, rng) for _ in range(39)]
    tests = [separation._shuffled(held, rng) for _ in range(39)]
    best = []
    for one, other in zip(fits, tests, strict=True):
        assert one.counts() == fit.counts() and other.counts() == held.counts()
        vectors = refusal_directions(states(train), one).vectors
        best.append(
            max(
                separation.within_strata(test[:, i, j] @ vectors[i, j], other.refused, held.harmful)
                or 0.0
                for i in range(2)
                for j in range(2)
            )
        )
    assert fast == pytest.approx(sorted(best)[37], abs=1e-6)


def test_the_null_within_strata_is_wide_where_a_cell_is_thin() -> None:
    """Shuffling all labels together would promise far too much of three refusals."""
    harmful = np.arange(200) % 2 == 0
    refused = harmful.copy()
    refused[[1, 3, 5]], refused[[0, 2, 4]] = True, False
    cells = Cells(harmful, refused)
    values = drawn(200, 0, cells)
    thin = separation.within_strata_null(values, cells, values[::-1].copy(), cells, 0)
    full = four_cells(200, 0)
    thick = separation.within_strata_null(values, full, values[::-1].copy(), full, 0)
    assert thin is not None and thick is not None and thin > thick + 0.08
    one = Cells(harmful, harmful)
    assert separation.within_strata_null(values, one, values, one, 0) is None


def test_halves_and_geometry_of_a_planted_direction() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(200) % 2 == 0
    values = rng.normal(size=(200, 1, 2, 128))
    values[:, 0, 0, 3] += 6.0 * positive  # planted at the first position only
    values[:, 0, 1, 5] += 50.0  # a massive channel that both classes share
    kept = states(values)
    made = Directions(
        vectors=values[positive].mean(0) - values[~positive].mean(0),
        residual_norms=np.linalg.norm(values, axis=-1).mean(0),
        layers=(0,),
        positions=(-2, -1),
        site="resid_pre",
        method="test",
        t_inst=-2,
    )
    first, last = separation.geometry(made, kept, positive, 0)
    assert first.split_half_cosine > 0.85 > 0.3 > abs(last.split_half_cosine)
    assert first.norm == pytest.approx(6.0, abs=0.5)
    assert first.relative_norm == pytest.approx(first.norm / made.residual_norms[0, 0])
    assert last.massive_share < 0.9


def test_cosine_map_is_empty_where_a_direction_has_no_length() -> None:
    vectors = np.zeros((3, 1, 2))
    vectors[1, 0], vectors[2, 0] = (1.0, 0.0), (1.0, 1.0)
    made = Directions(
        vectors=vectors,
        residual_norms=np.ones((3, 1)),
        layers=(0, 1, 2),
        positions=(-1,),
        site="resid_pre",
        method="test",
        t_inst=None,
    )
    grid = separation.cosine_map(made, -1)
    assert grid[0] == (None,) * 3 and grid[1][0] is None
    assert grid[1][1:] == pytest.approx([1.0, 0.5**0.5])
