"""A cheap guard in front of a dear judge, which sees only what the guard is unsure about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.data.prompt_sets import Message
from interp.errors import InputError, NumericalError
from interp.statistics.intervals import Interval, wilson
from probes.guards.guard import Guard

Judge = Callable[[Sequence[Sequence[Message]]], Sequence[bool]]
"""From conversations to whether each is harmful."""


@dataclass(frozen=True)
class Band:
    """Scores that go to the judge: from `low` to `high`, both included.

    Below it nothing is flagged, above it everything. With `low` above `high` nothing is escalated.

    Attributes:
        low: the lowest score that is escalated.
        high: the highest.
        escalated: share of the validation cases inside.
        error: share of the validation cases that the guard alone decides wrongly, outside.
        n: validation cases.
    """

    low: float
    high: float
    escalated: float
    error: float
    n: int

    @classmethod
    def for_share(
        cls, scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], share: float
    ) -> "Band":
        """The band of at most this share of the cases that leaves the guard the fewest errors.

        Of several such bands the smallest.

        Args:
            scores: of validation cases, with the mixture of classes that is expected in use.
            positive: the class of each.
            share: that the judge can take.

        Raises:
            InputError: the share is outside of [0, 1], or a class is empty.
            NumericalError: a score is not finite.
        """
        steps = _Steps.of(scores, positive, share)
        most = int(np.floor(share * len(scores) + 1e-9))
        begins = np.arange(len(steps.below))
        ends = np.searchsorted(steps.below, steps.below + most, side="right") - 1
        # Back to where the last false alarm is taken in: nothing is escalated without need.
        ends = np.searchsorted(-steps.alarms, -steps.alarms[ends], side="left")
        ends = np.maximum(ends, begins)
        return steps.band(begins, ends)

    @classmethod
    def for_error(
        cls, scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], error: float
    ) -> "Band":
        """The smallest band outside of which the guard decides at most this share wrongly.

        Args:
            scores: of validation cases, with the mixture of classes that is expected in use.
            positive: the class of each.
            error: wrong decisions of the guard over all cases.

        Raises:
            InputError: the share is outside of [0, 1], or a class is empty.
            NumericalError: a score is not finite.
        """
        steps = _Steps.of(scores, positive, error)
        allowed = int(np.floor(error * len(scores) + 1e-9))
        begins = np.flatnonzero(steps.missed <= allowed)
        # `alarms` falls along the steps: the first end at which few enough are left.
        ends = np.searchsorted(-steps.alarms, steps.missed[begins] - allowed, side="left")
        ends = np.maximum(ends, begins)
        smallest = np.argmin(steps.below[ends] - steps.below[begins])
        return steps.band(begins[[smallest]], ends[[smallest]])


@dataclass(frozen=True)
class CascadeResult:
    """What a cascade decided.

    Attributes:
        flagged: of each conversation.
        escalated: whether the judge decided it.
        share: escalated.
        share_interval: Wilson's, at 95 %.
    """

    flagged: Bool[np.ndarray, " n"]
    escalated: Bool[np.ndarray, " n"]
    share: float
    share_interval: Interval


@dataclass(frozen=True)
class Cascade:
    """A guard whose unsure scores go to a judge (Cunningham et al., arXiv 2601.04603, §5).

    Attributes:
        guard: scores everything, at one prefill each.
        band: what is escalated.
        judge: called once with all conversations of the band, if there are any.
    """

    guard: Guard
    band: Band
    judge: Judge

    def decide(self, conversations: Sequence[Sequence[Message]]) -> CascadeResult:
        """Flag conversations.

        Raises:
            InputError: there is no conversation, or the judge gives another number of answers.
        """
        if not conversations:
            raise InputError("there is no conversation to decide.")
        scores = np.array([one.score for one in self.guard.score_many(conversations)])
        flagged = scores > self.band.high
        escalated = (scores >= self.band.low) & (scores <= self.band.high)
        if escalated.any():
            asked = [conversations[i] for i in np.flatnonzero(escalated).tolist()]
            answers = list(self.judge(asked))
            if len(answers) != len(asked):
                raise InputError(
                    f"the judge was given {len(asked)} conversations and gave {len(answers)} "
                    "answers; it owes one for each."
                )
            flagged[escalated] = np.array(answers, dtype=bool)
        count = int(escalated.sum())
        n = len(conversations)
        return CascadeResult(flagged, escalated, count / n, wilson(float(count), n, "prompts"))


@dataclass(frozen=True)
class _Steps:
    """Validation cases in order of their scores, equal ones together.

    Entry i of the counts belongs to the place in front of the i-th value; there is one behind all.
    """

    values: Float[np.ndarray, " values"]
    below: Int[np.ndarray, " places"]  # cases in front of a place
    missed: Int[np.ndarray, " places"]  # positives among them
    alarms: Int[np.ndarray, " places"]  # negatives behind it

    @classmethod
    def of(
        cls, scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], share: float
    ) -> "_Steps":
        if not 0 <= share <= 1:
            raise InputError(f"a share of {share} is not between 0 and 1.")
        if positive.all() or not positive.any():
            raise InputError("one class is empty, so no band can be chosen; give both.")
        if not np.isfinite(scores).all():
            raise NumericalError("scores are NaN or infinite; no band can be chosen.")
        values, place = np.unique(scores, return_inverse=True)
        cases = np.bincount(place, minlength=len(values))
        positives = np.bincount(place[positive], minlength=len(values))
        below = np.r_[0, cases.cumsum()]
        missed = np.r_[0, positives.cumsum()]
        return cls(values, below, missed, (below[-1] - missed[-1]) - (below - missed))

    def band(self, begins: Int[np.ndarray, " m"], ends: Int[np.ndarray, " m"]) -> Band:
        """Of bands from a place to another, the one with the fewest errors, then the smallest."""
        errors = self.missed[begins] + self.alarms[ends]
        sizes = self.below[ends] - self.below[begins]
        best = int(np.lexsort((sizes, errors))[0])
        begin, end = int(begins[best]), int(ends[best])
        n = int(self.below[-1])
        above = float(np.nextafter(self.values[-1], np.inf))
        low = float(self.values[begin]) if begin < len(self.values) else above
        high = float(self.values[end - 1]) if end > begin else float(np.nextafter(low, -np.inf))
        return Band(low, high, float(sizes[best]) / n, float(errors[best]) / n, n)
