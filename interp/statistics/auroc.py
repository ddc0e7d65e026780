"""Areas under the ROC curve, many at a time."""

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata


def areas(
    positive: Float[np.ndarray, "n scores"], negative: Float[np.ndarray, "m scores"]
) -> Float[np.ndarray, " scores"]:
    """AUROC of each column: the probability that a positive scores higher, ties by half."""
    ranks = rankdata(np.concatenate([positive, negative]), axis=0)[: len(positive)]
    n, m = len(positive), len(negative)
    return np.asarray((ranks.sum(0) - n * (n + 1) / 2) / (n * m))


def area(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> float:
    """AUROC of one score."""
    return float(areas(positive[:, None], negative[:, None])[0])
