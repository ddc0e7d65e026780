"""From scores to probabilities, and whether these can be believed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from interp.errors import InputError, NumericalError
from interp.statistics.intervals import wilson


@dataclass(frozen=True)
class Platt:
    """Probability = σ(slope · score + intercept), at the class balance that it was fitted at."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> "Platt":
        """Fit on cases that nothing else was fitted on.

        Platt (1999): logistic regression without a penalty on smoothed targets, (P+1)/(P+2) and
        1/(N+2), which keep it finite where the classes do not overlap.

        Raises:
            InputError: a class is empty.
            NumericalError: a score is not finite.
        """
        if positive.all() or not positive.any():
            raise InputError("one class is empty, so scores cannot be turned into probabilities.")
        if not np.isfinite(scores).all():
            raise NumericalError("scores are NaN or infinite; no probability can be fitted.")
        positives, negatives = int(positive.sum()), int((~positive).sum())
        target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        mean, spread = float(scores.mean()), float(scores.std()) or 1.0
        column = ((scores - mean) / spread)[:, None]
        # A soft target is a case of either class, weighted.
        fitted = LogisticRegression(C=np.inf, tol=1e-8).fit(
            np.concatenate([column, column]),
            np.repeat([True, False], len(scores)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        slope = float(fitted.coef_[0, 0]) / spread
        return cls(slope, float(fitted.intercept_[0]) - slope * mean)

    def __call__(self, scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The probability of each score."""
        return np.asarray(expit(self.slope * scores + self.intercept))


def reliability(
    probabilities: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], bins: int = 10
) -> pd.DataFrame:
    """The calibration curve: what was predicted beside what came true.

    Args:
        probabilities: on cases that they were not fitted on.
        positive: the class of each.
        bins: of equal width; empty ones are left out.

    Returns:
        A row a bin: predicted (mean), observed (share), low, high (Wilson, 95 %), n.

    Raises:
        InputError: a probability is outside of [0, 1].
    """
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InputError("probabilities lie between 0 and 1; turn scores into them with Platt.")
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(place):
        inside = place == number
        true, n = int(positive[inside].sum()), int(inside.sum())
        low, high = wilson(float(true), n, "prompts")
        mean = float(probabilities[inside].mean())
        rows.append({"predicted": mean, "observed": true / n, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows)
