"""Linear probes under scikit-learn's contract that scikit-learn does not have.

LDA, logistic regression and ridge are scikit-learn's own.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class MassMean(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The difference of the class means, with its threshold half way between them.

    The mass-mean probe of Marks and Tegmark (arXiv 2310.06824, §5) without the correction by the
    covariance, and the difference in means of Arditi et al. (arXiv 2406.11717, §2.3). Sums are
    taken in float64.

    Attributes:
        coef_: mean of the second class minus mean of the first, (d,); not normalised.
        intercept_: so that the decision is 0 half way.
        classes_: the two labels.
    """

    def fit(self, X: Any, y: Any) -> "MassMean":
        """Take the means.

        Raises:
            ValueError: not two classes, or activations that are no finite numbers.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            raise ValueError(
                "Only binary classification is supported. The target holds "
                f"{len(self.classes_)} class(es); a mass-mean probe tells two."
            )
        first, second = (X[encoded == number].mean(0) for number in (0, 1))
        self.coef_ = second - first
        self.intercept_ = float(-self.coef_ @ (first + second) / 2)
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """Scalar product with the difference of the means, 0 half way between them."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_ + self.intercept_)

    def predict(self, X: Any) -> np.ndarray:
        """The class whose mean is nearer along the direction."""
        second = self.decision_function(X) > 0
        return np.asarray(self.classes_[second.astype(int)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
