"""`ProbeGrid`: a logistic probe at every layer and position, all of them in one call."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from interp.errors import InputError, NumericalError
from interp.statistics.auroc import areas
from probes.estimators.logistic import Problem, Solution, fit_columns

_CONSTANT = 1e-6  # spread over mean, below which a float32 feature counts as constant


class ProbeGrid(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression at every cell of a grid of activations, such as layers × positions.

    At every cell it is scikit-learn's LogisticRegression at the same penalty, on features that are
    standardised with the statistics of the rows that are fitted (of each fold its own); the
    standardisation is folded back, so `coef_` is in the coordinates of the activations. Folds and
    penalties of a cell are solved together (`probes.logistic`).

    Args:
        C: inverse penalty, as in LogisticRegression. None chooses it for every cell by
            cross-validated AUROC among `Cs`; of equal ones the strongest penalty.
        Cs: what to choose from.
        cv: number of stratified folds.
        standardize: divide features by their standard deviation (and centre them).
        tol: largest entry of the gradient of the mean loss at the end.
        max_iter: iterations of a fit at most.
        device: where to compute; that of the data if None.
        random_state: of the folds.

    Attributes:
        coef_: (*grid, d), in raw coordinates.
        intercept_: (*grid,).
        C_: the penalty of each cell, (*grid,).
        cv_scores_: AUROC on held-out folds, (*grid, folds, penalties); None for a given C.
        n_iter_: iterations of the final fit, (*grid,).
        classes_: the two labels.
        grid_shape_: shape of the grid.
    """

    def __init__(
        self,
        C: float | None = None,
        *,
        Cs: Sequence[float] = tuple(np.logspace(-4, 2, 10)),
        cv: int = 5,
        standardize: bool = True,
        tol: float = 1e-5,
        max_iter: int = 1000,
        device: str | None = None,
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "ProbeGrid":
        """Fit every cell.

        Args:
            X: activations, (n, *grid, d), numpy or torch.
            y: two classes, (n,).
            groups: rows of one group, such as prompts of one template or source, are never parted
                between the folds.

        Raises:
            InputError: shapes that do not fit, or not two classes, or fewer rows of a class than
                folds.
            NumericalError: NaN or infinite activations.
        """
        x, labels = self._checked(X, y)
        self.classes_, encoded = np.unique(labels, return_inverse=True)
        self._require_classes(encoded)
        self.grid_shape_ = tuple(x.shape[1:-1])
        self.n_features_in_ = x.shape[-1]
        target = torch.as_tensor(encoded, dtype=torch.float32)
        folds = [] if self.C is not None else self._folds(encoded, groups)
        cells = int(np.prod(self.grid_shape_, dtype=int))
        coef = np.empty((cells, self.n_features_in_), np.float32)
        intercept, chosen = np.empty(cells, np.float32), np.empty(cells)
        scores = np.empty((cells, len(folds), len(self.Cs)))
        iterations, gradient = np.empty(cells, int), np.empty(cells)
        for cell, raw in enumerate(self._cells(x)):
            on = target.to(raw.device)
            # Around a common centre float32 keeps digits that a large mean would take.
            mean, deviation = _moments(raw, raw.new_ones(len(raw)))
            if not self.standardize:
                deviation = torch.ones_like(deviation)
            matrix = (raw - mean) / deviation
            if self.C is None:
                scores[cell] = self._cross_validate(matrix, on, folds)
                chosen[cell] = self.Cs[int(np.argmax(scores[cell].mean(0)))]
            else:
                chosen[cell] = self.C
            found = self._solve(matrix, on, [np.arange(len(encoded))], [chosen[cell]])
            weights = found.coef[:, 0] / deviation
            coef[cell] = weights.cpu().numpy()
            intercept[cell] = (found.intercept[0] - mean @ weights).item()
            iterations[cell], gradient[cell] = found.iterations[0], found.gradient[0]
        self._warn(gradient)
        self.coef_ = coef.reshape(*self.grid_shape_, -1)
        self.intercept_ = intercept.reshape(self.grid_shape_)
        self.C_ = chosen.reshape(self.grid_shape_)
        self.n_iter_ = iterations.reshape(self.grid_shape_)
        shape = (*self.grid_shape_, len(folds), len(self.Cs))
        self.cv_scores_ = scores.reshape(shape) if self.C is None else None
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "n *grid"]:
        """Log-odds of the second class at every cell."""
        check_is_fitted(self)
        x = self._activations(X)
        if tuple(x.shape[1:]) != (*self.grid_shape_, self.n_features_in_):
            raise InputError(
                f"activations of shape {tuple(x.shape)} do not fit a probe grid that was fitted on "
                f"(n, {', '.join(map(str, (*self.grid_shape_, self.n_features_in_)))})."
            )
        coef = self.coef_.reshape(-1, self.n_features_in_)
        columns = [
            (matrix @ torch.as_tensor(w, device=matrix.device)).cpu().numpy()
            for matrix, w in zip(self._cells(x), coef, strict=True)
        ]
        logits = np.stack(columns, 1) + self.intercept_.reshape(-1)
        return logits.reshape(len(x), *self.grid_shape_)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n *grid"]:
        """Probability of the second class at every cell."""
        logits = self.decision_function(X)
        return np.asarray(1 / (1 + np.exp(-logits.clip(-500, 500))))

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class at every cell, (n, *grid)."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])

    def auroc(self, X: Any, y: Any) -> Float[np.ndarray, "*grid"]:
        """Area under the ROC curve at every cell."""
        scores = self.decision_function(X).reshape(len(y), -1)
        labels = np.asarray(y) == self.classes_[1]
        return areas(scores[labels], scores[~labels]).reshape(self.grid_shape_)

    def _cross_validate(
        self, matrix: Tensor, target: Tensor, folds: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> Float[np.ndarray, "folds penalties"]:
        found = self._solve(matrix, target, [train for train, _ in folds], list(self.Cs))
        logits = (matrix @ found.coef + found.intercept).cpu().numpy()
        labels = target.cpu().numpy() > 0
        scores = []
        for number, (_, held) in enumerate(folds):
            here = logits[held, number * len(self.Cs) : (number + 1) * len(self.Cs)]
            scores.append(areas(here[labels[held]], here[~labels[held]]))
        return np.stack(scores)

    def _solve(
        self, matrix: Tensor, target: Tensor, rows: Sequence[np.ndarray], penalties: Sequence[float]
    ) -> Solution:
        """Fit every set of rows at every penalty; the penalties of a set stand side by side."""
        n, d = matrix.shape
        k = len(rows) * len(penalties)
        used = torch.zeros(n, k, dtype=torch.bool, device=matrix.device)
        penalty = matrix.new_empty(k)
        centre, scale = matrix.new_zeros(d, k), matrix.new_ones(d, k)
        for number, some in enumerate(rows):
            here = slice(number * len(penalties), (number + 1) * len(penalties))
            used[torch.as_tensor(some, device=matrix.device), here] = True
            penalty[here] = matrix.new_tensor([1 / (c * len(some)) for c in penalties])
            if self.standardize:
                mean, deviation = _moments(matrix, used[:, here.start])
                centre[:, here], scale[:, here] = mean[:, None], deviation[:, None]
        problem = Problem(matrix, target, used, penalty, centre, scale)
        return fit_columns(problem, tolerance=self.tol, most_iterations=self.max_iter)

    def _folds(self, encoded: np.ndarray, groups: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        splitter = kind(self.cv, shuffle=True, random_state=self.random_state)
        folds = list(splitter.split(np.zeros(len(encoded)), encoded, groups))
        for train, held in folds:
            if len(np.unique(encoded[train])) < 2 or len(np.unique(encoded[held])) < 2:
                raise InputError(
                    "a fold holds one class only; give fewer folds (cv), or groups in which both "
                    "classes occur."
                )
        return folds

    def _cells(self, x: Tensor) -> Iterator[Float[Tensor, "n d"]]:
        """The matrix of each cell in row-major order, in float32."""
        device = self.device or x.device
        for index in np.ndindex(*x.shape[1:-1]):
            yield x[(slice(None), *index)].to(device, torch.float32).contiguous()

    def _activations(self, X: Any) -> Tensor:
        x: Tensor = X.detach() if isinstance(X, Tensor) else torch.as_tensor(np.asarray(X))
        if x.ndim < 2 or not x.is_floating_point():
            raise InputError(
                f"activations must be floats of shape (n, *grid, d); got {tuple(x.shape)} of "
                f"{x.dtype}."
            )
        return x

    def _checked(self, X: Any, y: Any) -> tuple[Tensor, np.ndarray]:
        x, labels = self._activations(X), np.asarray(y)
        if labels.shape != (len(x),):
            raise InputError(
                f"{len(x)} rows of activations need as many labels; got {labels.shape}."
            )
        finite = torch.isfinite(x.flatten(1)).all(1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise NumericalError(
                f"{int((~finite).sum())} rows of activations are NaN or infinite, first row {row}; "
                "no probe can be fitted to them."
            )
        return x, labels

    def _require_classes(self, encoded: np.ndarray) -> None:
        if len(self.classes_) != 2:
            raise InputError(
                f"a probe tells two classes; the labels hold {len(self.classes_)}: "
                f"{', '.join(map(str, self.classes_[:5]))}."
            )
        least = int(np.bincount(encoded).min())
        if self.C is None and least < self.cv:
            raise InputError(
                f"the smaller class has {least} rows, too few for {self.cv} folds; give more rows, "
                "a smaller cv, or a fixed C."
            )

    def _warn(self, gradient: np.ndarray) -> None:
        import warnings

        late = int((gradient > self.tol).sum())
        if late:
            warnings.warn(
                f"{late} of {len(gradient)} cells did not converge in {self.max_iter} iterations "
                f"(largest gradient {gradient.max():.2g}); raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )


def _moments(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over some rows.

    A feature that is constant but for rounding is not scaled.
    """
    weight = (rows / rows.sum()).double()
    mean = weight @ matrix.double()
    deviation = (weight @ (matrix - mean) ** 2).sqrt()
    real = deviation > _CONSTANT * mean.abs().clamp_min(1e-30)
    return mean.to(matrix.dtype), torch.where(real, deviation, 1.0).to(matrix.dtype)
