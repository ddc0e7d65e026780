"""Areas under the curve against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.statistics.auroc import area, areas


@pytest.mark.parametrize("ties", [True, False])
def test_areas_are_scikit_learns(ties: bool) -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.5, 1, (30, 5)), rng.normal(0, 1, (40, 5))
    if ties:
        positive, negative = positive.round(), negative.round()
    labels = np.r_[np.ones(30), np.zeros(40)]
    expected = [roc_auc_score(labels, np.r_[positive[:, i], negative[:, i]]) for i in range(5)]
    assert areas(positive, negative) == pytest.approx(expected)
    assert area(positive[:, 0], negative[:, 0]) == pytest.approx(expected[0])


def test_edges() -> None:
    assert area(np.array([2.0]), np.array([1.0])) == 1.0
    assert area(np.array([1.0]), np.array([2.0])) == 0.0
    assert area(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
