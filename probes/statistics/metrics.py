"""How well scores tell two classes apart, with intervals that stay honest at the edge."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import norm, rankdata

from interp.errors import InputError, NumericalError
from interp.statistics.auroc import area
from interp.statistics.intervals import Interval, auroc_interval, wilson

_RESAMPLES = 2000
_WEIGHTS = 2_000_000  # of cases in resamples, at once
_NEGATIVES_PER_FPR = 3  # an event of rate f is missed by 3/f trials in one case of twenty


@dataclass(frozen=True)
class Auroc:
    """An area under the ROC curve.

    Attributes:
        value: probability that a positive scores above a negative, ties by half.
        interval: at 95 %.
        method: `DeLong`, `Newcombe` where the classes are parted completely, or `clusters` for a
            bootstrap over groups of prompts.
        positives: cases.
        negatives: cases.
    """

    value: float
    interval: Interval
    method: str
    positives: int
    negatives: int


def auroc(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    *,
    clusters: Shaped[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Auroc:
    """AUROC with an interval.

    DeLong's (1988) on the logit scale where there is an overlap. Where there is none its variance
    is zero, and Newcombe's method 5 (2006) stands in. With clusters, prompts that share a template
    or source are drawn together by bootstrap; where that collapses, Newcombe's with the number of
    clusters in place of the number of prompts.

    Args:
        scores: the higher, the more positive.
        positive: the class of each.
        clusters: a name for each case, equal for cases that are not independent.
        seed: of the bootstrap.

    Raises:
        InputError: a class is empty, or shapes differ.
        NumericalError: a score is not finite.
    """
    _require_two_classes(scores, positive)
    high, low = scores[positive], scores[~positive]
    value = area(high, low)
    if clusters is not None:
        interval, method = (
            _by_cluster(scores, positive, np.asarray(clusters), value, seed),
            "clusters",
        )
    elif value in (0.0, 1.0):
        interval, method = auroc_interval(value, len(low), len(high)), "Newcombe"
    else:
        interval, method = _delong(high, low, value), "DeLong"
    return Auroc(value, interval, method, len(high), len(low))


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it lets through.

    Attributes:
        threshold: scores above it count as positive.
        fpr: share of negatives above it.
        fpr_interval: Wilson's, at 95 %.
        tpr: share of positives above it; None where there are no positives.
        tpr_interval: Wilson's; None likewise.
        negatives: cases.
        positives: cases.
    """

    threshold: float
    fpr: float
    fpr_interval: Interval
    tpr: float | None
    tpr_interval: Interval | None
    negatives: int
    positives: int


def threshold_for_fpr(negatives: Float[np.ndarray, " n"], fpr: float) -> float:
    """The lowest threshold above which at most a share `fpr` of the negatives lies.

    Args:
        negatives: scores of benign traffic that nothing was fitted on.
        fpr: the wanted false-positive rate.

    Raises:
        InputError: the rate is outside of (0, 1), or there are fewer than 3/fpr negatives, so that
            not even a rate of 0 among them would show that it is met.
        NumericalError: a score is not finite.
    """
    if not 0 < fpr < 1:
        raise InputError(f"a false-positive rate of {fpr} is not between 0 and 1.")
    least = int(np.ceil(_NEGATIVES_PER_FPR / fpr - 1e-9))
    if len(negatives) < least:
        raise InputError(
            f"a false-positive rate of {fpr:g} needs at least {least} negatives (3 / rate), and "
            f"there are {len(negatives)}; give more benign prompts, or ask for a higher rate."
        )
    if not np.isfinite(negatives).all():
        raise NumericalError("scores of negatives are NaN or infinite; no threshold can be set.")
    ordered = np.sort(negatives)[::-1]
    # The first score that may not be exceeded: as many as allowed lie above it.
    return float(ordered[int(np.floor(fpr * len(ordered) + 1e-9))])


def operating_point(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], threshold: float
) -> OperatingPoint:
    """What a threshold does on cases that it was not chosen on.

    Raises:
        InputError: there is no negative case, or shapes differ.
    """
    if scores.shape != positive.shape or not (~positive).any():
        raise InputError("an operating point needs negatives, and a class for every score.")
    false, true = scores[~positive] > threshold, scores[positive] > threshold
    return OperatingPoint(
        threshold,
        float(false.mean()),
        wilson(float(false.sum()), len(false)),
        float(true.mean()) if len(true) else None,
        wilson(float(true.sum()), len(true)) if len(true) else None,
        len(false),
        len(true),
    )


def tpr_at_fpr(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], fpr: float
) -> OperatingPoint:
    """The share of positives found at a false-positive rate, both on the same cases.

    Raises:
        InputError: there are fewer than 3/fpr negatives, or a class is empty.
        NumericalError: a score is not finite.
    """
    _require_two_classes(scores, positive)
    return operating_point(scores, positive, threshold_for_fpr(scores[~positive], fpr))


def _require_two_classes(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " m"]) -> None:
    if scores.shape != positive.shape:
        raise InputError(f"{len(scores)} scores need as many classes; got {len(positive)}.")
    if positive.all() or not positive.any():
        raise InputError("one class is empty, so nothing can be told apart; give both.")
    if not np.isfinite(scores).all():
        raise NumericalError(
            f"{int((~np.isfinite(scores)).sum())} scores are NaN or infinite; they have no rank."
        )


def _delong(high: Float[np.ndarray, " n"], low: Float[np.ndarray, " m"], value: float) -> Interval:
    """DeLong's variance by mid-ranks (Sun and Xu 2014), as an interval on the logit scale."""
    n, m = len(high), len(low)
    if n < 2 or m < 2:
        return auroc_interval(value, m, n)
    together = rankdata(np.concatenate([high, low]))
    above = (together[:n] - rankdata(high)) / m
    below = 1 - (together[n:] - rankdata(low)) / n
    variance = above.var(ddof=1) / n + below.var(ddof=1) / m
    if variance == 0:  # all scores are tied, or each class is
        return auroc_interval(value, m, n)
    half = float(norm.ppf(0.975)) * np.sqrt(variance) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    limits = 1 / (1 + np.exp(-np.array([centre - half, centre + half])))
    return float(limits[0]), float(limits[1])


def _by_cluster(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"],
    value: float,
    seed: int,
) -> Interval:
    names, member = np.unique(clusters, return_inverse=True)
    groups = [len(np.unique(member[side])) for side in (~positive, positive)]
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            _weighted_areas(scores, positive, _drawn(len(names), size, rng)[:, member])
            for size in _portions(_RESAMPLES, len(scores))
        ]
    )
    drawn = drawn[~np.isnan(drawn)]  # of resamples without one of the classes
    if not len(drawn) or drawn.min() == drawn.max():
        return auroc_interval(value, groups[0], groups[1])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _portions(resamples: int, cases: int) -> list[int]:
    """Sizes of portions of resamples, so that few weights are in memory at once."""
    size = max(1, _WEIGHTS // cases)
    return [min(size, resamples - begun) for begun in range(0, resamples, size)]


def _drawn(
    clusters: int, resamples: int, rng: np.random.Generator
) -> Int[np.ndarray, "resamples clusters"]:
    """How often each resample draws each cluster."""
    return np.stack(
        [
            np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
            for _ in range(resamples)
        ]
    )


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
