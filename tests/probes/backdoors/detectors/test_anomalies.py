"""Detectors of odd representations on states where the truth is known."""

import numpy as np
import pytest

from interp.statistics.auroc import area
from probes.backdoors.detectors.anomalies import Anomaly, Beatrix, Spectral, every_anomaly

LAYERS, WIDTH = 3, 12


def states(seed: int, rows: int, *, odd: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(rows, 1, WIDTH)) + 0.1 * rng.normal(size=(rows, LAYERS, WIDTH))
    if odd:  # a fixed offset in the middle layer, so that neighbouring layers disagree
        found[:, 1] += 6 * np.array([1, -1] * (WIDTH // 2))
    return found


@pytest.mark.parametrize("anomaly", every_anomaly(LAYERS), ids=lambda one: one.name)
def test_odd_states_score_higher(anomaly: Anomaly) -> None:
    plain, odd = states(0, 200), states(1, 12, odd=True)
    fitted = anomaly.fit(plain, np.concatenate([plain, odd]))
    high, low = fitted.score(states(2, 50, odd=True)), fitted.score(states(3, 50))
    assert high.shape == (50,) and np.isfinite(high).all()
    assert area(high, low) > 0.95


@pytest.mark.parametrize("anomaly", every_anomaly(LAYERS), ids=lambda one: one.name)
def test_plain_states_are_not_told_from_plain_ones(anomaly: Anomaly) -> None:
    plain = states(0, 200)
    fitted = anomaly.fit(plain, plain)
    assert 0.3 < area(fitted.score(states(2, 80)), fitted.score(states(3, 80))) < 0.7


def test_spectral_is_the_projection_on_the_first_component_of_the_pool() -> None:
    pool = states(4, 30)
    fitted = Spectral(1).fit(pool, pool)
    centred = pool[:, 1] - pool[:, 1].mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    slow = (centred @ vectors[:, values.argmax()]) ** 2
    np.testing.assert_allclose(fitted.score(pool), slow)


def test_beatrix_looks_at_gram_entries() -> None:
    plain = states(5, 40)
    detector = Beatrix().fit(plain, plain)
    one = states(6, 1)
    entry = detector._entries(one)[0]
    powers, kept = (1, 2, 3, 4), one[0][:, detector.channels_]
    slow = []
    for power in powers:
        gram = (kept**power).T @ (kept**power)
        gram = gram[np.triu_indices(len(gram))]
        slow.append(np.sign(gram) * np.abs(gram) ** (1 / power))
    np.testing.assert_allclose(entry, np.concatenate(slow))
