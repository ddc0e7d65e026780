"""Probes over several layers: side by side in one probe, or one over the scores of others."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.validation import check_is_fitted

from interp.errors import InputError
from interp.statistics.auroc import areas
from probes.estimators.grid import ProbeGrid
from probes.estimators.linear import Logistic

Folds = list[tuple[np.ndarray, np.ndarray]]


def concatenated(states: Float[np.ndarray, "n layers width"]) -> Float[np.ndarray, "n features"]:
    """The layers of each row side by side, so that one linear probe reads them all."""
    return states.reshape(len(states), -1)


def folds(
    y: Shaped[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"] | None, cv: int, seed: int = 0
) -> Folds:
    """Stratified folds that part no group; each side of each fold holds both classes.

    Raises:
        InputError: there are too few rows or groups of a class for that.
    """
    smaller = int(np.unique(y, return_counts=True)[1].min())
    if smaller < cv:
        raise InputError(
            f"the smaller class has {smaller} rows, too few for {cv} folds; give more rows, or a "
            "smaller cv."
        )
    if groups is not None and (count := len(np.unique(groups))) < cv:
        raise InputError(f"there are {count} groups, too few for {cv} folds; give a smaller cv.")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    found = list(kind(cv, shuffle=True, random_state=seed).split(np.zeros(len(y)), y, groups))
    if any(len(np.unique(y[side])) < 2 for fold in found for side in fold):
        raise InputError(
            "a fold holds one class only; give fewer folds (cv), or groups in which both classes "
            "occur."
        )
    return found


class StackedProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression over the scores of layer probes (Nordby et al., arXiv 2604.13386).

    Each row is scored by layer probes that were fitted, penalty included, on the other folds. Those
    out-of-fold scores choose the `k` layers of the highest AUROC and train the regression over
    them; then the layer probes are fitted anew on all rows. Every layer probe is brought to mean 0
    and deviation 1 over the rows it was fitted on, because the size of its scores depends on its
    penalty. Everything happens inside `fit`, so held-out rows are seen by neither choice. As all
    parts are linear, so is the whole.

    Args:
        k: number of layers; all, where there are fewer.
        C: inverse penalty of the layer probes; None chooses it at each layer by cross-validation.
        cv: number of folds.
        device: where the layer probes are computed; that of the data if None.
        random_state: of the folds.

    Attributes:
        layers_: indices of the chosen layers along the axis, ascending, (k,).
        layer_auroc_: out-of-fold AUROC of each layer, (layers,).
        weights_: what a standardised score of each chosen layer counts, (k,).
        coef_: in raw coordinates, (layers, width); zero at layers that were not chosen.
        intercept_: a number.
        classes_: the two labels.
    """

    def __init__(
        self,
        k: int = 5,
        *,
        C: float | None = None,
        cv: int = 5,
        device: str | None = None,
        random_state: int = 0,
    ) -> None:
        self.k = k
        self.C = C
        self.cv = cv
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "StackedProbe":
        """Fit layer probes and the regression over them.

        Args:
            X: activations, (n, layers, width).
            y: two classes, (n,).
            groups: rows of one group are never parted between folds.

        Raises:
            InputError: shapes that do not fit, not two classes, or too few rows for the folds.
            NumericalError: NaN or infinite activations.
        """
        x, labels = np.asarray(X), np.asarray(y)
        if x.ndim != 3 or self.k < 1:
            raise InputError(
                f"a stacked probe takes (n, layers, width) and 1 layer or more; got {x.shape} and "
                f"k = {self.k}."
            )
        if labels.shape != (len(x),) or len(np.unique(labels)) != 2:
            raise InputError(
                f"{len(x)} rows need as many labels of two classes; got {labels.shape} with "
                f"{len(np.unique(labels))}."
            )
        self.classes_, encoded = np.unique(labels, return_inverse=True)
        groups = None if groups is None else np.asarray(groups)
        scores = np.empty(x.shape[:2])
        for train, held in folds(encoded, groups, self.cv, self.random_state):
            inner = None if groups is None else groups[train]
            coef, intercept = self._layer_probes(x[train], encoded[train], inner)
            scores[held] = np.einsum("nld,ld->nl", x[held], coef) + intercept
        self.layer_auroc_ = areas(scores[encoded == 1], scores[encoded == 0])
        best = np.argsort(-self.layer_auroc_, kind="stable")[: self.k]
        self.layers_ = np.sort(best)
        over = Logistic(cv=self.cv, random_state=self.random_state)
        over.fit(scores[:, self.layers_], encoded, groups)
        coef, intercept = self._layer_probes(x[:, self.layers_], encoded, groups)
        self.weights_ = over.coef_
        self.coef_ = np.zeros(x.shape[1:])
        self.coef_[self.layers_] = over.coef_[:, None] * coef
        self.intercept_ = float(over.intercept_ + over.coef_ @ intercept)
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """Log-odds of the second class."""
        check_is_fitted(self)
        x = np.asarray(X)
        if x.shape[1:] != self.coef_.shape:
            raise InputError(
                f"activations of shape {x.shape} do not fit a stacked probe that was fitted on "
                f"(n, {', '.join(map(str, self.coef_.shape))})."
            )
        return np.asarray(np.tensordot(x, self.coef_, 2) + self.intercept_)

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])

    def _layer_probes(
        self, x: np.ndarray, encoded: np.ndarray, groups: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients [layers, width] and intercepts of probes whose scores are standardised."""
        grid = ProbeGrid(self.C, cv=self.cv, device=self.device, random_state=self.random_state)
        scores = grid.fit(x, encoded, groups).decision_function(x)
        deviation = scores.std(0)
        deviation[deviation == 0] = 1.0  # a layer that says nothing
        intercept = (grid.intercept_ - scores.mean(0)) / deviation
        return grid.coef_ / deviation[:, None], intercept
