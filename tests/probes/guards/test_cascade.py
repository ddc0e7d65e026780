"""Cascades: bands by brute force, and who decides what."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from interp.errors import InputError, NumericalError
from interp.statistics.intervals import wilson
from probes.guards.cascade import Band, Cascade
from probes.guards.guard import Guard, GuardScore


def cases(seed: int, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    return np.round(rng.normal(size=n) + positive, 1), positive


def told(band: Band, scores: np.ndarray, positive: np.ndarray) -> tuple[int, int]:
    """Cases inside, and wrong decisions outside, as a cascade decides."""
    inside = (scores >= band.low) & (scores <= band.high)
    wrong = (scores > band.high) != positive
    return int(inside.sum()), int((wrong & ~inside).sum())


def every_band(scores: np.ndarray, positive: np.ndarray) -> list[tuple[int, int]]:
    """All of them: of all pairs of values, and the empty ones in front of each and behind all."""
    values = np.unique(scores)
    found = []
    for low in [*values, values[-1] + 1]:
        empty = Band(low, np.nextafter(low, -np.inf), 0.0, 0.0, 1)
        found.append(told(empty, scores, positive))
        for high in values[values >= low]:
            found.append(told(Band(low, high, 0.0, 0.0, 1), scores, positive))
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_the_band_of_a_share_leaves_the_fewest_errors(seed: int, share: float) -> None:
    scores, positive = cases(seed)
    band = Band.for_share(scores, positive, share)
    allowed = [(wrong, size) for size, wrong in every_band(scores, positive) if size <= 30 * share]
    size, wrong = told(band, scores, positive)
    assert (wrong, size) == min(allowed)
    assert (band.escalated, band.error, band.n) == (size / 30, wrong / 30, 30)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("error", [0.0, 0.05, 0.2, 1.0])
def test_the_band_of_an_error_is_the_smallest(seed: int, error: float) -> None:
    scores, positive = cases(seed)
    band = Band.for_error(scores, positive, error)
    allowed = [size for size, wrong in every_band(scores, positive) if wrong <= 30 * error]
    size, wrong = told(band, scores, positive)
    assert size == min(allowed) and wrong <= 30 * error
    assert (band.escalated, band.error) == (size / 30, wrong / 30)


def test_parted_classes_need_no_judge() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0])
    for band in (
        Band.for_error(scores, scores > 1.5, 0.0),
        Band.for_share(scores, scores > 1.5, 0.5),
    ):
        assert (band.escalated, band.error) == (0, 0)
        assert 1 < band.low <= 2 and band.high < band.low


@pytest.mark.parametrize("choose", [Band.for_share, Band.for_error])
def test_refused(choose: Any) -> None:
    scores, positive = cases(0)
    with pytest.raises(InputError, match="not between 0 and 1"):
        choose(scores, positive, 1.5)
    with pytest.raises(InputError, match="one class is empty"):
        choose(scores, np.zeros(30, bool), 0.1)
    with pytest.raises(NumericalError, match="NaN"):
        choose(np.where(positive, np.nan, scores), positive, 0.1)


class Written(Guard):
    """A guard that reads its score from the prompt."""

    def __init__(self) -> None:
        pass

    def score_many(self, conversations: Any, **settings: Any) -> list[GuardScore]:
        return [GuardScore(float(said[-1]["content"]), False) for said in conversations]


def conversations(*scores: float) -> list[list[dict[str, Any]]]:
    return [[{"role": "user", "content": str(score)}] for score in scores]


def test_only_the_unsure_go_to_the_judge() -> None:
    asked: list[str] = []

    def judge(given: Sequence[Sequence[Any]]) -> list[bool]:
        asked.extend(said[-1]["content"] for said in given)
        return [said[-1]["content"] == "0.5" for said in given]

    cascade = Cascade(Written(), Band(0.0, 1.0, 0.5, 0.0, 10), judge)
    made = cascade.decide(conversations(-1.0, 0.0, 0.5, 1.0, 1.5))
    assert asked == ["0.0", "0.5", "1.0"]
    assert made.flagged.tolist() == [False, False, True, False, True]
    assert made.escalated.tolist() == [False, True, True, True, False]
    assert made.share == 0.6 and made.share_interval == wilson(3.0, 5)
    asked.clear()
    assert cascade.decide(conversations(-1.0, 2.0)).share == 0 and asked == []


def test_a_judge_that_owes_answers() -> None:
    cascade = Cascade(Written(), Band(0.0, 1.0, 0.5, 0.0, 10), lambda given: [True])
    with pytest.raises(InputError, match="given 2 conversations and gave 1 answers"):
        cascade.decide(conversations(0.1, 0.2))
    with pytest.raises(InputError, match="no conversation"):
        cascade.decide([])
