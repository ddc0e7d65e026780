"""Linear probes by name, each of them a direction: `coef_` [width] and `intercept_`, raw.

What is standardised for the fit is folded back, so a probe reads activations as they are, and its
`coef_` may be compared with any other direction of the same site.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from interp.errors import InputError
from probes.estimators.discriminant import wide_discriminant
from probes.estimators.grid import ProbeGrid
from probes.estimators.mass_mean import MassMean


class _Linear(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What the probes of two classes share: checked input, and a scalar product."""

    def fit(self, X: Any, y: Any, groups: Any = None) -> "_Linear":
        """Fit the probe.

        Args:
            X: activations, (n, width).
            y: two classes, (n,).
            groups: rows of one group are never parted between folds, where there are folds.

        Raises:
            ValueError: not two classes, or activations that are no finite numbers.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            raise ValueError(
                "Only binary classification is supported. The target holds "
                f"{len(self.classes_)} class(es); a probe tells two."
            )
        # A copy: what is memory-mapped read-only cannot be handed to torch.
        coef, intercept = self._solve(np.array(X), encoded, groups)
        self.coef_, self.intercept_ = np.asarray(coef, np.float64), float(intercept)
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """Score of the second class, above 0 where it is the likelier."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_ + self.intercept_)

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class."""
        second = self.decision_function(X) > 0
        return np.asarray(self.classes_[second.astype(int)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    @abstractmethod
    def _solve(self, x: np.ndarray, encoded: np.ndarray, groups: Any) -> tuple[np.ndarray, float]:
        """Coefficients and intercept in raw coordinates."""


class Logistic(_Linear):
    """Logistic regression with L2 on standardised features: a `ProbeGrid` of one cell.

    Args:
        C: inverse penalty, as in LogisticRegression. None chooses it among `Cs` by cross-validated
            AUROC.
        Cs: what to choose from.
        cv: number of folds.
        standardize: whether features are standardised; with the statistics of each fold its own.
        tol: largest entry of the gradient of the mean loss at the end.
        max_iter: iterations at most.
        random_state: of the folds.

    Attributes:
        coef_: (width,).
        intercept_: a number.
        C_: the penalty.
        classes_: the two labels.
        n_iter_: iterations of the fit, (1,).
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
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n 2"]:
        """Probability of both classes."""
        positive = expit(self.decision_function(X))
        return np.stack([1 - positive, positive], 1)

    def _solve(self, x: np.ndarray, encoded: np.ndarray, groups: Any) -> tuple[np.ndarray, float]:
        grid = ProbeGrid(**self.get_params()).fit(x, encoded, groups)
        self.C_, self.n_iter_ = float(grid.C_), np.atleast_1d(grid.n_iter_)
        return grid.coef_, float(grid.intercept_)


class Lda(_Linear):
    """Linear discriminant analysis with a shrunk covariance (Ledoit and Wolf), scikit-learn's.

    Where there are fewer rows than features, the same is worked out in the span of the rows.

    Args:
        shrinkage: `auto`, or the share of the scaled identity, from 0 to 1.

    Attributes:
        coef_: (width,).
        intercept_: a number.
        classes_: the two labels.
    """

    def __init__(self, shrinkage: str | float = "auto") -> None:
        self.shrinkage = shrinkage

    def _solve(self, x: np.ndarray, encoded: np.ndarray, groups: Any) -> tuple[np.ndarray, float]:
        if self.shrinkage == "auto" and x.shape[1] > len(x):
            found = wide_discriminant(x, encoded)
            if found is not None:
                return found
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=self.shrinkage)
        fitted.fit(x, encoded)
        return fitted.coef_[0], float(fitted.intercept_[0])


class Ridge(_Linear):
    """Ridge regression on ±1 with standardised features, scikit-learn's RidgeClassifierCV.

    Args:
        alphas: penalties to choose from by leave-one-out error.

    Attributes:
        coef_: (width,).
        intercept_: a number.
        alpha_: the penalty.
        classes_: the two labels.
    """

    def __init__(self, alphas: Sequence[float] = tuple(np.logspace(-2, 6, 9))) -> None:
        self.alphas = alphas

    def _solve(self, x: np.ndarray, encoded: np.ndarray, groups: Any) -> tuple[np.ndarray, float]:
        scaler = StandardScaler().fit(x)
        fitted = RidgeClassifierCV(alphas=self.alphas).fit(scaler.transform(x), encoded)
        self.alpha_ = float(fitted.alpha_)
        coef = np.ravel(fitted.coef_) / scaler.scale_
        return coef, np.ravel(fitted.intercept_)[0] - scaler.mean_ @ coef


ESTIMATORS: dict[str, Any] = {
    "mass-mean": MassMean,
    "lda": Lda,
    "logistic": Logistic,
    "ridge": Ridge,
}


def estimator(name: str, **settings: Any) -> Any:
    """A linear probe by its name: `mass-mean`, `lda`, `logistic` or `ridge`.

    Args:
        name: of the estimator.
        **settings: its arguments.

    Raises:
        InputError: there is none of that name, or it has no such setting.
    """
    if name not in ESTIMATORS:
        raise InputError(f"there is no estimator {name!r}; there are {', '.join(ESTIMATORS)}.")
    try:
        return ESTIMATORS[name](**settings)
    except TypeError as error:
        known = ", ".join(ESTIMATORS[name]().get_params()) or "no setting"
        raise InputError(
            f"{name} does not take {', '.join(settings)}; it takes {known}."
        ) from error
