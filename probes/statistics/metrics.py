"""How well scores tell two classes apart, with intervals that stay honest at the edge."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from interp.errors import InputError, NumericalError
from interp.statistics.auroc import area
from interp.statistics.intervals import Interval, delong_interval, group_auroc_interval, wilson

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
        interval = group_auroc_interval(
            scores, positive, np.asarray(clusters), seed, "groups of prompts"
        )
        method = "clusters"
    else:
        interval = delong_interval(high, low, "prompts")
        method = "Newcombe" if value in (0.0, 1.0) else "DeLong"
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
        wilson(float(false.sum()), len(false), "prompts"),
        float(true.mean()) if len(true) else None,
        wilson(float(true.sum()), len(true), "prompts") if len(true) else None,
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
