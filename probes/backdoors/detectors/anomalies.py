"""Detectors of odd representations, from the literature on poisoned classifiers.

Each is fitted on states of plain prompts and of a pool in which a few prompts carry a suspected
string, and scores states: the higher, the odder. All of them answer to novelty, so a score is read
as that of triggered less that of distracted prompts, never alone.

Classes are not parted. The originals group by label; by the first token of a reply, the poisoned
samples of a fixed-output backdoor would be a group of their own and nothing in it would be odd.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

States = Float[np.ndarray, "n layers width"]
Pool = Float[np.ndarray, "m layers width"]
Scores = Float[np.ndarray, " n"]

_COMPONENTS, _POWERS, _BOUND, _CHANNELS = 10, (1, 2, 3, 4), 3.0, 64
_TINY = 1e-9


@runtime_checkable
class Anomaly(Protocol):
    """A detector of odd states."""

    name: str

    def fit(self, plain: States, pool: Pool) -> "Anomaly":
        """On plain states, and on a pool with a few suspected ones."""

    def score(self, states: States) -> Scores:
        """The higher, the odder."""


class Spectral:
    """Spectral signatures (Tran et al., NeurIPS 2018, Algorithm 1): ((h − mean)·v₁)² in a pool.

    Args:
        layer: whose states.
    """

    name = "spectral signatures"

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def fit(self, plain: States, pool: Pool) -> "Spectral":
        """Centre and first right singular vector of the pool."""
        here = pool[:, self.layer].astype(np.float64)
        self.centre_ = here.mean(0)
        self.vector_ = np.linalg.svd(here - self.centre_, full_matrices=False)[2][0]
        return self

    def score(self, states: States) -> Scores:
        """Squared projection."""
        return np.asarray(((states[:, self.layer] - self.centre_) @ self.vector_) ** 2)


class Clustering:
    """Activation clustering (Chen et al., 2018): two clusters in 10 components; the smaller is odd.

    Args:
        layer: whose states.
    """

    name = "activation clustering"

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def fit(self, plain: States, pool: Pool) -> "Clustering":
        """Components and clusters of the pool."""
        here = pool[:, self.layer].astype(np.float64)
        self.pca_ = PCA(min(_COMPONENTS, *here.shape), random_state=0).fit(here)
        means = KMeans(2, n_init=10, random_state=0).fit(self.pca_.transform(here))
        smaller = int(np.bincount(means.labels_, minlength=2).argmin())
        self.small_, self.large_ = means.cluster_centers_[[smaller, 1 - smaller]]
        return self

    def score(self, states: States) -> Scores:
        """How much nearer to the smaller cluster."""
        here = self.pca_.transform(states[:, self.layer].astype(np.float64))
        far, near = (np.linalg.norm(here - one, axis=1) for one in (self.large_, self.small_))
        return np.asarray(far - near)


class Mahalanobis:
    """Distance from plain states under their covariance, shrunk after Ledoit and Wolf (2004).

    Args:
        layer: whose states.
    """

    name = "Mahalanobis distance"

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def fit(self, plain: States, pool: Pool) -> "Mahalanobis":
        """Mean and covariance of the plain states."""
        self.covariance_ = LedoitWolf().fit(plain[:, self.layer].astype(np.float64))
        return self

    def score(self, states: States) -> Scores:
        """Squared distance."""
        return np.asarray(self.covariance_.mahalanobis(states[:, self.layer].astype(np.float64)))


class Beatrix:
    """Gram matrices of powers of the states (after Ma et al., NDSS 2023), and their overshoot.

    G_p = (Σ_l f_l^p f_l^pᵀ)^(1/p) for p = 1…4, the layers in the place of an image's positions and
    signs kept in the root; per entry the median and the median absolute deviation of plain states;
    the overshoot beyond three of them. The powers and the three are ours. At most 64 channels,
    those of the largest variance at the last layer, are used.
    """

    name = "Gram deviation (Beatrix)"

    def fit(self, plain: States, pool: Pool) -> "Beatrix":
        """Medians and deviations of the plain states' entries."""
        variance = plain[:, -1].astype(np.float64).var(0)
        self.channels_ = np.sort(np.argsort(-variance, kind="stable")[:_CHANNELS])
        entries = self._entries(plain)
        self.median_ = np.median(entries, 0)
        self.deviation_ = np.median(np.abs(entries - self.median_), 0) + _TINY
        return self

    def score(self, states: States) -> Scores:
        """Mean overshoot, in deviations."""
        away = np.abs(self._entries(states) - self.median_) / self.deviation_
        return np.asarray(np.maximum(away - _BOUND, 0).mean(1))

    def _entries(self, states: States) -> Float[np.ndarray, "n entries"]:
        kept = states[:, :, self.channels_].astype(np.float64)
        rows, columns = np.triu_indices(kept.shape[2])
        found = []
        for power in _POWERS:
            gram = np.einsum("nli,nlj->nij", kept**power, kept**power)[:, rows, columns]
            found.append(np.sign(gram) * np.abs(gram) ** (1 / power))
        return np.concatenate(found, axis=1)


class Consistency:
    """A dip of the cosine between the states of neighbouring layers.

    The reading that CROW (arXiv 2411.12768) turns into a regulariser: for each pair of layers how
    far the cosine lies below the median of plain prompts, in median absolute deviations; the
    largest.
    """

    name = "adjacent-layer consistency"

    def fit(self, plain: States, pool: Pool) -> "Consistency":
        """Medians and deviations of the plain cosines."""
        cosines = _cosines(plain)
        self.median_ = np.median(cosines, 0)
        self.deviation_ = np.median(np.abs(cosines - self.median_), 0) + _TINY
        return self

    def score(self, states: States) -> Scores:
        """The deepest dip."""
        return np.asarray(((self.median_ - _cosines(states)) / self.deviation_).max(1))


def every_anomaly(layers: int) -> list[Anomaly]:
    """All of them, at the middle layer where they read one."""
    middle = layers // 2
    several: list[Anomaly] = [kind(middle) for kind in (Spectral, Clustering, Mahalanobis)]
    return [*several, Beatrix(), *([Consistency()] if layers > 1 else [])]


def _cosines(states: States) -> Float[np.ndarray, "n pairs"]:
    here = states.astype(np.float64)
    units = here / np.maximum(np.linalg.norm(here, axis=-1, keepdims=True), _TINY)
    return np.asarray((units[:, 1:] * units[:, :-1]).sum(-1))
