"""Intervals at 95 %, each of which knows its method and writes its own caption.

Tokens and heads of one sequence are not independent, so sequences, prompts or groups of them are
what is resampled. All methods are in this module: a new one is a member of `Method` and a function.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from scipy.optimize import brentq

from interp.statistics.auroc import area, area_variance, resampled_areas
from interp.statistics.resampling import (
    LEVEL,
    RESAMPLES,
    draw_rows,
    percentile_ends,
    resampled_means,
)

_Z = 1.959963984540054
_CASES = "cases"
_NAN = float("nan")


class Method(Enum):
    """How an interval is computed.

    Attributes:
        template: what its captions say; `{s}` is the plural's ending, `{over}` what was resampled
            or counted.
        citation: where the formula comes from.
    """

    WILSON = (
        "Wilson score interval{s} over {over}",
        "Wilson 1927, Journal of the American Statistical Association 22:209",
    )
    BOOTSTRAP = (
        f"percentile bootstrap interval{{s}} over {{over}} ({RESAMPLES:,} resamples)",
        "Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13",
    )
    TWO_SAMPLE_BOOTSTRAP = (
        "percentile bootstrap interval{s} over {over}, each side resampled by itself "
        f"({RESAMPLES:,} resamples)",
        "Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8",
    )
    AGREEING_DIFFERENCES = (
        "interval{s} by Wilson's upper bound for none of n {over}",
        "Wilson 1927, Journal of the American Statistical Association 22:209",
    )
    NEWCOMBE_AUROC = (
        "interval{s} (Newcombe 2006, method 5)",
        "Newcombe 2006, Statistics in Medicine 25:559, method 5",
    )
    DELONG = (
        "DeLong interval{s} on the logit scale",
        "DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837; Sun and Xu 2014, IEEE Signal "
        "Processing Letters 21:1389",
    )
    NEWCOMBE_DIFFERENCE = (
        "interval{s} (Newcombe 1998, method 10)",
        "Newcombe 1998, Statistics in Medicine 17:873, method 10",
    )
    SQUARE_AND_ADD = (
        "interval{s} from those of both terms (Zou and Donner 2008)",
        "Zou and Donner 2008, Statistics in Medicine 27:1693",
    )

    def __init__(self, template: str, citation: str) -> None:
        self.template = template
        self.citation = citation

    def text(self, over: str, *, plural: bool) -> str:
        """What the method is called in a caption, without the level."""
        return self.template.format(s="s" if plural else "", over=over)


# What `caption` says of functions with a method that stands in: `share_interval`,
# `paired_interval`, `delong_interval`, `group_auroc_interval`.
SHARE = (Method.BOOTSTRAP, Method.WILSON)
PAIRED = (Method.BOOTSTRAP, Method.AGREEING_DIFFERENCES)
AUROC = (Method.DELONG, Method.NEWCOMBE_AUROC)
AUROC_BY_GROUP = (Method.BOOTSTRAP, Method.NEWCOMBE_AUROC)


def caption(method: Method, *instead: Method, over: str) -> str:
    """What a figure says of its intervals, in the plural and without a full stop.

    Args:
        method: of the intervals.
        instead: what takes its place where it would yield an interval without width.
        over: what was resampled or counted, in the plural, such as "prompts".
    """
    said = f"{LEVEL} % {method.text(over, plural=True)}"
    if instead:
        others = " or ".join(one.text(over, plural=True) for one in instead)
        said += f", replaced where they would have no width by {others}"
    return said


class Interval(tuple[float, float]):
    """The two ends of an interval at 95 %, with the method that they come from.

    It is a pair: it unpacks, compares and turns into JSON as one, whatever its method is.

    Args:
        ends: low and high.
        method: that they come from. Without one the result is a plain pair.
        over: what was resampled or counted, in the plural.
    """

    _method: Method
    _over: str

    def __new__(
        cls, ends: Iterable[float], method: Method | None = None, over: str = _CASES
    ) -> Any:
        """Make one; see the class."""
        low, high = ends
        if method is None:
            # `dataclasses.asdict` makes every tuple anew from its values alone, for JSON.
            return low, high
        made = super().__new__(cls, (low, high))
        made._method, made._over = method, over
        return made

    def __reduce__(self) -> tuple[type["Interval"], tuple[tuple[float, float], Method, str]]:
        return Interval, ((self.low, self.high), self._method, self._over)

    @property
    def low(self) -> float:
        """The lower end."""
        return self[0]

    @property
    def high(self) -> float:
        """The upper end."""
        return self[1]

    @property
    def method(self) -> Method:
        """The method that it was computed by."""
        return self._method

    @property
    def over(self) -> str:
        """What was resampled or counted, in the plural."""
        return self._over

    @property
    def caption(self) -> str:
        """What a figure says of it, in the singular and without a full stop."""
        return f"{LEVEL} % {self._method.text(self._over, plural=False)}"


def bootstrap(
    values: NDArray[np.floating],
    seed: int,
    statistic: Callable[[NDArray[np.floating]], Any] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Percentile bootstrap over the first axis, for many columns at once.

    Args:
        values: [cases, ...].
        seed: of the resampling, the same for every column, so that columns stay comparable.
        statistic: of a resampled array over its axis 0; the mean unless given.

    Returns:
        Low and high ends, each [...]; NaN with fewer than two cases, from which no spread can be
        told.
    """
    shape = values.shape[1:]
    count = values.shape[0]
    if count < 2:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    generator = np.random.default_rng(seed)
    if statistic is None:
        return percentile_ends(resampled_means(values, generator))
    rows = draw_rows(count, generator)
    return percentile_ends(np.stack([statistic(values[drawn]) for drawn in rows]))


def bootstrap_interval(
    values: NDArray[np.floating],
    seed: int,
    statistic: Callable[[NDArray[np.floating]], Any] | None = None,
    over: str = _CASES,
) -> Interval:
    """Percentile bootstrap of one number.

    Args:
        values: of each case; several columns where the statistic needs them.
        seed: of the resampling.
        statistic: a number from resampled values; the mean unless given.
        over: what the cases are.

    Returns:
        NaN at both ends with fewer than two cases.
    """
    if len(values) < 2:
        return Interval((_NAN, _NAN), Method.BOOTSTRAP, over)
    low, high = bootstrap(values, seed, statistic)
    return Interval((float(low), float(high)), Method.BOOTSTRAP, over)


def difference_interval(
    one: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"], seed: int, over: str = _CASES
) -> Interval | None:
    """Two-sample bootstrap of a difference of means; None where a side has fewer than two cases.

    Args:
        one: whose mean counts positively.
        other: whose mean is subtracted.
        seed: of the draws of the first side; that of the second is the next one.
        over: what the cases are.
    """
    if min(len(one), len(other)) < 2:
        return None
    drawn = [
        resampled_means(values, np.random.default_rng(seed + i))
        for i, values in enumerate((one, other))
    ]
    return two_sample_interval(drawn[0] - drawn[1], over)


def two_sample_interval(resampled: Float[np.ndarray, " resamples"], over: str = _CASES) -> Interval:
    """The interval of a statistic of two sides, from its resamples.

    Args:
        resampled: the statistic, each side of each resample drawn by itself.
        over: what the cases of both sides are.
    """
    low, high = percentile_ends(resampled)
    return Interval((float(low), float(high)), Method.TWO_SAMPLE_BOOTSTRAP, over)


def wilson(successes: float | int, n: int, over: str = _CASES) -> Interval:
    """Wilson's score interval for a share, which does not collapse at 0 and 1.

    Args:
        successes: how many of them.
        n: trials.
        over: what the trials are.
    """
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == n else min(1.0, float(centre + half))
    return Interval((low, high), Method.WILSON, over)


def share_interval(shares: NDArray[np.floating], seed: int, over: str = _CASES) -> Interval | None:
    """Interval for the mean of shares in [0, 1], one a case; None with fewer than two.

    By bootstrap over cases; where all cases agree the bootstrap collapses, and Wilson's interval
    with one trial a case stands in. It is wide on purpose: no share in [0, 1] varies more than a
    coin of the same mean.

    Args:
        shares: of each case.
        seed: of the bootstrap.
        over: what the cases are.
    """
    if len(shares) < 2:
        return None
    if shares.min() == shares.max():
        return wilson(float(shares.mean()) * len(shares), len(shares), over)
    return bootstrap_interval(shares, seed, over=over)


def mean_interval(values: NDArray[np.floating], seed: int, over: str = _CASES) -> Interval | None:
    """Interval for a mean over cases, by bootstrap; None with fewer than two.

    Args:
        values: of each case.
        seed: of the bootstrap.
        over: what the cases are.
    """
    return None if len(values) < 2 else bootstrap_interval(values, seed, over=over)


def paired_interval(
    differences: NDArray[np.floating], seed: int, most: float = 1.0, over: str = _CASES
) -> Interval | None:
    """Interval for the mean of differences of shares or of yes and no, case by case.

    By bootstrap over cases; where all cases agree the bootstrap collapses. Then the cases that
    could differ are as many as Wilson's upper bound for none of n allows, each of them by 1.

    Args:
        differences: of each case.
        seed: of the bootstrap.
        most: the largest size that a difference can have.
        over: what the cases are.

    Returns:
        None with fewer than two cases.
    """
    if len(differences) < 2:
        return None
    if differences.min() != differences.max():
        return bootstrap_interval(differences, seed, over=over)
    mean = float(differences.mean())
    rare = wilson(0, len(differences)).high
    ends = max(-most, mean - rare), min(most, mean + rare)
    return Interval(ends, Method.AGREEING_DIFFERENCES, over)


def square_and_add(
    one: float,
    its: Sequence[float],
    other: float,
    others: Sequence[float],
    over: str = _CASES,
) -> Interval:
    """Interval of a difference of two independent estimates, from the interval of each.

    The lower end lies below the difference by the root of the sum of squares of the distances to
    the lower end of the one and to the upper end of the other (Zou and Donner 2008).

    Args:
        one: an estimate.
        its: interval.
        other: what is subtracted.
        others: its interval.
        over: what the intervals are over.
    """
    gap = one - other
    below = np.hypot(one - its[0], others[1] - other)
    above = np.hypot(its[1] - one, other - others[0])
    return Interval((float(gap - below), float(gap + above)), Method.SQUARE_AND_ADD, over)


def share_difference_interval(one: float, other: float, n: int, over: str = _CASES) -> Interval:
    """Newcombe's method 10 for the difference of two shares, which does not collapse at the edge.

    Args:
        one: a share.
        other: what is subtracted.
        n: trials behind each of them.
        over: what the trials are.
    """
    limits = [wilson(share * n, n) for share in (one, other)]
    ends = square_and_add(one, limits[0], other, limits[1])
    return Interval(ends, Method.NEWCOMBE_DIFFERENCE, over)


def auroc_interval(auroc: float, negatives: int, positives: int, over: str = _CASES) -> Interval:
    """Newcombe's method 5 for an AUROC, which stays honest at 0 and 1.

    The limits are the AUROCs whose own standard error (Hanley and McNeil's, with both class sizes
    replaced by their mean) puts the measured one 1.96 away (Newcombe 2006, Statistics in Medicine
    25:559, method 5).

    Args:
        auroc: as measured.
        negatives: how many.
        positives: how many.
        over: what the members of both classes are.
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

    return Interval((limit(-1), limit(1)), Method.NEWCOMBE_AUROC, over)


def delong_interval(
    positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"], over: str = _CASES
) -> Interval:
    """DeLong's interval for an AUROC, on the logit scale.

    Where the variance is zero (the classes are separated completely, or all scores are tied) or
    cannot be told (a class has one member), Newcombe's method 5 stands in.

    Args:
        positive: scores.
        negative: scores.
        over: what the members of both classes are.
    """
    value, n, m = area(positive, negative), len(positive), len(negative)
    if value in (0.0, 1.0) or n < 2 or m < 2:
        return auroc_interval(value, m, n, over)
    variance = area_variance(positive, negative)
    if variance == 0:
        return auroc_interval(value, m, n, over)
    half = _Z * np.sqrt(variance) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    low, high = 1 / (1 + np.exp(-np.array([centre - half, centre + half])))
    return Interval((float(low), float(high)), Method.DELONG, over)


def group_auroc_interval(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    seed: int,
    over: str = "groups",
) -> Interval:
    """Interval for an AUROC by bootstrap over groups of cases that are not independent.

    Where all resamples agree, Newcombe's method 5 stands in, with the number of groups in place of
    the number of cases.

    Args:
        scores: the higher, the more positive.
        positive: the class of each.
        groups: a name for each case, equal for cases that are drawn together.
        seed: of the bootstrap.
        over: what the groups are.
    """
    _, member = np.unique(groups, return_inverse=True)
    drawn = resampled_areas(scores, positive, member, np.random.default_rng(seed))
    if not len(drawn) or drawn.min() == drawn.max():
        value = area(scores[positive], scores[~positive])
        negatives, positives = (len(np.unique(member[side])) for side in (~positive, positive))
        return auroc_interval(value, negatives, positives, over)
    low, high = percentile_ends(drawn)
    return Interval((float(low), float(high)), Method.BOOTSTRAP, over)
