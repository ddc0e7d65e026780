"""Areas under the ROC curve, many at a time."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from interp.statistics.resampling import RESAMPLES, draw_rows

_WEIGHTS = 2_000_000  # of cases in resamples, at once


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


def area_variance(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> float:
    """DeLong's variance of an AUROC, by mid-ranks (Sun and Xu 2014).

    It is 0 where the classes are separated completely and where all scores are tied.
    """
    n, m = len(positive), len(negative)
    together = rankdata(np.concatenate([positive, negative]))
    above = (together[:n] - rankdata(positive)) / m
    below = 1 - (together[n:] - rankdata(negative)) / n
    return float(above.var(ddof=1) / n + below.var(ddof=1) / m)


def resampled_areas(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
    generator: np.random.Generator,
) -> Float[np.ndarray, " resamples"]:
    """AUROC of bootstrap resamples of groups; those without one of the classes are left out.

    Args:
        scores: the higher, the more positive.
        positive: the class of each.
        member: the number of the group of each, from 0.
        generator: of the draws.
    """
    groups = int(member.max()) + 1
    portion = max(1, _WEIGHTS // len(scores))  # of resamples, so that few weights exist at once
    found = []
    for begun in range(0, RESAMPLES, portion):
        rows = draw_rows(groups, generator, min(portion, RESAMPLES - begun))
        counts = np.stack([np.bincount(drawn, minlength=groups) for drawn in rows])
        found.append(_weighted_areas(scores, positive, counts[:, member]))
    drawn = np.concatenate(found)
    return drawn[~np.isnan(drawn)]


def _weighted_areas(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    weights: Int[np.ndarray, "resamples n"],
) -> Float[np.ndarray, " resamples"]:
    """AUROC with every case counted as often as its weight says; NaN without a class."""
    order = np.argsort(scores, kind="stable")
    begins = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of equal scores
    ordered = weights[:, order]
    high = np.add.reduceat(ordered * positive[order], begins, axis=1)
    low = np.add.reduceat(ordered * ~positive[order], begins, axis=1)
    above = (high * (low.cumsum(1) - low / 2)).sum(1)
    pairs = (high.sum(1) * low.sum(1)).astype(float)
    areas: np.ndarray = above / np.where(pairs > 0, pairs, np.nan)
    return areas
