"""A readout is the estimator that it was fitted as."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from interp.errors import InputError
from probes.guards.latent_guard import LatentGuard
from probes.guards.readout import Readout, require_method


def states() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    harmful = np.arange(60) % 2 == 0
    x = rng.normal(size=(60, 5, 8)) + 20 + 0.4 * harmful[:, None, None]
    return x.astype(np.float32), harmful


def computed(readout: Readout, x: np.ndarray, dtype: torch.dtype = torch.float32) -> np.ndarray:
    used = torch.as_tensor(x[:, list(readout.layers)]).transpose(0, 1).to(dtype)
    return np.asarray(readout.on(torch.device("cpu"))(used).numpy())


@pytest.mark.parametrize("paper", [True, False])
def test_latent_guard(paper: bool) -> None:
    x, harmful = states()
    readout = Readout.fit(x, harmful, "paper" if paper else "centred")
    assert readout.layers == ((0, 1, 2, 3, 4) if paper else (1, 2, 3))
    expected = LatentGuard(paper_exact=paper).fit(x, harmful).decision_function(x)
    np.testing.assert_allclose(computed(readout, x), expected, atol=2e-5)


def test_probe_is_scikit_learns_regression_at_its_penalty() -> None:
    x, harmful = states()
    readout = Readout.fit(x, harmful, "probe")
    flat = StandardScaler().fit_transform(x[:, 1:4].reshape(60, -1).astype(np.float64))
    scores = computed(readout, x)
    fits = [
        LogisticRegression(C=penalty, tol=1e-9, max_iter=5000).fit(flat, harmful)
        for penalty in np.logspace(-4, 2, 10)
    ]
    off = [np.abs(fit.decision_function(flat) - scores).max() for fit in fits]
    assert min(off) < 5e-3


def test_a_state_at_the_centre_scores_zero() -> None:
    x, harmful = states()
    readout = Readout.fit(x, harmful, "centred")
    at_centre = np.zeros((1, 5, 8), np.float32)
    at_centre[0, 1:4] = readout.centres
    assert computed(readout, at_centre)[0] == 0


def test_half_precision_is_computed_in_float32() -> None:
    x, harmful = states()
    readout = Readout.fit(x, harmful, "centred")
    rounded = torch.as_tensor(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(computed(readout, x, torch.bfloat16), computed(readout, rounded))


def test_unknown_method() -> None:
    assert require_method("paper") == "paper"
    with pytest.raises(InputError, match="no guard 'nearest'; there are centred, paper, probe"):
        require_method("nearest")
