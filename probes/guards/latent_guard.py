"""Latent Guard: whether a request is harmful, from two centroids at every layer.

After Zhao et al. (arXiv 2507.11878, §5.1): the states at the last token of the instruction are
compared with the mean of harmful and the mean of harmless ones. Nothing is trained.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from interp.errors import InputError, NumericalError


class LatentGuard(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Nearness to the harmful centroid less nearness to the harmless one, averaged over layers.

    The paper's score (Eq. 3) is the mean over l = 1…L of cos(h^l, μ_harmful^l) −
    cos(h^l, μ_harmless^l), and a request is harmful unless it is negative. Its h^l is the input of
    block l for l < L and the raw output of the last block for l = L; the embedding, l = 0, is left
    out. So its L terms are the outputs of the L blocks: give states of `resid_post` at all layers.
    (The authors' notebook also averages the embedding; the equation is what is followed here.)

    Ours differs in two ways. The mean of the two centroids is taken from the states and from the
    centroids before the cosine, because the centroids of one layer point nearly the same way (a
    cosine of .84 to .95 in the authors' own tensors), so that little margin is left. And a fifth
    of the layers, rounded, is dropped at either end: the first hardly know more than the last
    token, and the last are large and about the next token.

    Args:
        paper_exact: all layers and no centring, as published.

    Attributes:
        centroids_: of harmless and harmful states, (2, layers, width), float64.
        layers_: which entries of the layer axis count.
        centres_: what is taken from the states, (layers in use, width); 0 if `paper_exact`.
        weights_: unit centroid of harmful less that of harmless, (layers in use, width).
        classes_: False and True.
    """

    def __init__(self, *, paper_exact: bool = False) -> None:
        self.paper_exact = paper_exact

    def fit(self, X: Any, y: Any) -> "LatentGuard":
        """Take the centroids.

        Args:
            X: states at t_inst, (n, layers, width).
            y: True for harmful, (n,).

        Raises:
            InputError: shapes that do not fit, an empty class, or classes of one centroid.
            NumericalError: a state is NaN or infinite.
        """
        states, harmful = _states(X), _classes(y, len(X))
        self.classes_ = np.array([False, True])
        self.n_features_in_ = states.shape[-1]
        self.layers_ = (
            np.arange(states.shape[1]) if self.paper_exact else middle_layers(states.shape[1])
        )
        self.centroids_ = np.stack(
            [states[side].mean(0, dtype=np.float64) for side in (~harmful, harmful)]
        )
        used = self.centroids_[:, self.layers_]
        self.centres_ = np.zeros_like(used[0]) if self.paper_exact else used.mean(0)
        harmless_unit, harmful_unit = _unit(used - self.centres_)
        self.weights_ = harmful_unit - harmless_unit
        if not self.weights_.any():
            raise InputError(
                "the harmful and the harmless states have the same centroids at every layer in "
                "use, so no guard can tell them apart; check that the two sets of prompts differ."
            )
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """The score of each row, harmful if not negative; between −2 and 2.

        Raises:
            InputError: the states have another shape than those of `fit`.
            NumericalError: a state is NaN or infinite.
        """
        check_is_fitted(self)
        states = _states(X)
        if states.shape[1:] != self.centroids_.shape[1:]:
            raise InputError(
                f"states of shape {states.shape} do not fit a guard that was fitted on (n, "
                f"{', '.join(map(str, self.centroids_.shape[1:]))})."
            )
        units = _unit(states[:, self.layers_] - self.centres_)
        return np.asarray((units * self.weights_).sum(-1).mean(1))

    def predict(self, X: Any) -> Bool[np.ndarray, " n"]:
        """True for harmful."""
        return self.decision_function(X) >= 0


def middle_layers(count: int) -> np.ndarray:
    """Layers without a fifth of them, rounded, at either end; at least one is left."""
    edge = round(count / 5)
    return np.arange(edge, count - edge)


def _states(X: Any) -> Float[np.ndarray, "n layers width"]:
    states = np.asarray(X)
    if states.ndim != 3 or not len(states):
        raise InputError(
            f"a guard needs states [rows, layers, width] and at least one row; got {states.shape}."
        )
    if not np.isfinite(states).all():
        bad = np.argwhere(~np.isfinite(states).all(-1))[0]
        raise NumericalError(
            f"the state of row {bad[0]} at entry {bad[1]} of the layers is NaN or infinite."
        )
    return states


def _classes(y: Any, rows: int) -> Bool[np.ndarray, " n"]:
    harmful = np.asarray(y)
    if harmful.shape != (rows,) or not np.isin(harmful, [0, 1]).all():
        raise InputError(
            f"{rows} states need as many classes, True for harmful; got {harmful.shape}."
        )
    harmful = harmful.astype(bool)
    if harmful.all() or not harmful.any():
        missing = "harmless" if harmful.all() else "harmful"
        raise InputError(f"there is no {missing} prompt; a guard needs both classes.")
    return harmful


def _unit(vectors: Float[np.ndarray, "*shape width"]) -> Float[np.ndarray, "*shape width"]:
    """Vectors of length 1; those of length 0 stay 0 and have no cosine to add."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1, norms))
