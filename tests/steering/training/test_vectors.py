"""Vectors and readers on states whose truth is known."""

import numpy as np
import pytest

from interp.errors import InputError
from steering.training.vectors import null_space_reader, pairwise_component


def _states(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)


def test_the_pairwise_component_finds_the_planted_axis_and_its_sign() -> None:
    axis = np.eye(8)[2]
    low = 0.1 * _states(60, 0)
    found = pairwise_component((low + 3 * axis).astype(np.float32), low)
    assert found @ axis > 0.99
    assert np.linalg.norm(found) == pytest.approx(1.0)
    assert pairwise_component(low, (low + 3 * axis).astype(np.float32)) @ axis < -0.99


def test_a_reader_sees_harm_and_nothing_of_what_benign_states_use() -> None:
    benign = _states(200, 1)
    benign[:, 4:] *= 1e-6  # all in the first four coordinates
    harmful = _states(200, 2)
    harmful[:, 4:] = [2, 1, 0, 0]
    reader = null_space_reader(benign, harmful, 0.5).numpy()
    assert (harmful @ reader).mean() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(benign @ reader).max() < 1e-4
    # The slow reference: ridge regression of P h onto 1, by normal equations in full width.
    project = np.diag([0.0] * 4 + [1.0] * 4)
    z = harmful.astype(float) @ project
    slow = project @ np.linalg.solve(z.T @ z + 10 * np.eye(8), z.sum(0))
    slow /= (harmful @ slow).mean()
    np.testing.assert_allclose(reader, slow, atol=1e-4)


def test_harm_that_benign_states_use_too_cannot_be_read() -> None:
    benign = _states(200, 1)
    benign[:, 4:] = 0
    with pytest.raises(InputError, match="alphasteer has nothing to read"):
        null_space_reader(benign, benign, 0.5)
