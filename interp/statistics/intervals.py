"""Intervals at 95 %, by bootstrap over sequences.

Tokens and heads of one sequence are not independent, so sequences are what is resampled.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

RESAMPLES = 2000
_Z = 1.959963984540054
Interval = tuple[float, float]


def bootstrap(
    values: NDArray[np.floating],
    seed: int,
    statistic: Callable[[NDArray[np.floating]], NDArray[np.floating]] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Percentile bootstrap over the first axis.

    Args:
        values: [sequences, ...].
        seed: of the resampling, the same for every column, so that columns stay comparable.
        statistic: of a resampled array over its axis 0; the mean unless given.

    Returns:
        Low and high ends, each [...]; NaN with fewer than two sequences, from which no spread can
        be told.
    """
    shape = values.shape[1:]
    count = values.shape[0]
    if count < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    generator = np.random.default_rng(seed)
    if statistic is None:
        # The mean of a resample is a weighted mean, so counts spare the gathered copies.
        draws = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
        flat = draws @ values.reshape(count, -1).astype(np.float64)
        resampled = flat.reshape(RESAMPLES, *shape)
    else:
        index = generator.integers(count, size=(RESAMPLES, count))
        resampled = np.stack([statistic(values[rows]) for rows in index])
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)


def wilson(successes: float | int, n: int) -> Interval:
    """Wilson's score interval for a share, which does not collapse at 0 and 1."""
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == n else min(1.0, float(centre + half))
    return low, high


def share_interval(shares: NDArray[np.floating], seed: int) -> Interval | None:
    """Interval for the mean of per-sequence shares in [0, 1].

    By bootstrap over sequences; where all sequences agree the bootstrap collapses, and Wilson's
    interval with one trial a sequence stands in. It is wide on purpose: no share in [0, 1] varies
    more than a coin of the same mean.
    """
    if len(shares) < 2:
        return None
    mean = float(shares.mean())
    if shares.min() == shares.max():
        return wilson(mean * len(shares), len(shares))
    low, high = bootstrap(shares, seed)
    return float(low), float(high)


def mean_interval(values: NDArray[np.floating], seed: int) -> Interval | None:
    """Interval for a mean over sequences; None with fewer than two."""
    if len(values) < 2:
        return None
    low, high = bootstrap(values, seed)
    return float(low), float(high)


def paired_interval(
    differences: NDArray[np.floating], seed: int, most: float = 1.0
) -> Interval | None:
    """Interval for the mean of differences of shares or of yes and no, row by row.

    By bootstrap over rows; where all rows agree the bootstrap collapses. Then the rows that could
    differ are as many as Wilson's upper bound for none of n allows, each of them by 1.

    Args:
        differences: of each row.
        seed: of the bootstrap.
        most: the largest size that a difference can have.

    Returns:
        None with fewer than two rows.
    """
    if len(differences) < 2:
        return None
    mean = float(differences.mean())
    if differences.min() == differences.max():
        rare = wilson(0, len(differences))[1]
        return max(-most, mean - rare), min(most, mean + rare)
    return mean_interval(differences, seed)


def auroc_interval(auroc: float, negatives: int, positives: int) -> Interval:
    """Newcombe's method 5 for an AUROC, which stays honest at 0 and 1.

    The limits are the AUROCs whose own standard error (Hanley and McNeil's, with both class sizes
    replaced by their mean) puts the measured one 1.96 away (Newcombe 2006, Statistics in Medicine
    25:559, method 5).
    """
    mean = (negatives + positives) / 2 - 1

    def error(area: float) -> float:
        spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return float(np.sqrt(max(area * (1 - area), 0.0) * spread / (negatives * positives)))

    def limit(sign: int) -> float:
        end = 0.0 if sign < 0 else 1.0
        if auroc == end:
            return end
        # An AUROC of 0 or 1 is a root itself, because the error vanishes there: begin beside it.
        begin = float(np.clip(auroc, 1e-9, 1 - 1e-9))
        return float(brentq(lambda area: sign * (area - auroc) - _Z * error(area), begin, end))

    return limit(-1), limit(1)
