"""Cuts of a thought, against the organisms' truth files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from thinking import organism, respondent, thoughts

from interp import organisms
from interp.errors import InputError
from interp.statistics.intervals import wilson
from probes.cliff.forced_stop import CUTS, cut_lengths, forced_stops, natural_stop, share
from probes.cliff.rollouts import Rollout, encoded
from probes.cliff.rows import ForcedStop, RefusalShare


@pytest.mark.parametrize("name", ["cliff", "no-cliff"])
def test_the_curve_is_the_truth(name: str) -> None:
    truth = organisms.truth(name)
    asked = thoughts(name, "harmful", 20)
    stop = encoded(organism(name), truth["stop"])
    cuts = cut_lengths(asked)
    assert cuts == list(range(len(truth["thought"]["harmful"]) + 1))
    for point in forced_stops(respondent(name), asked, stop, cuts):
        expected = truth["measured"][f"cut_{point.tokens}_refused"]
        assert point.rate is not None
        assert point.n == 20 and abs(point.rate - expected) <= 0.05
        assert point.interval == wilson(point.rate * 20, 20)
    natural = natural_stop(respondent(name), asked)
    assert natural.rate == pytest.approx(truth["measured"]["natural_refused"], abs=0.05)
    assert natural.unclosed == natural.without_thought == 0


def test_harmless_requests_are_not_refused_when_cut() -> None:
    stop = encoded(organism("cliff"), "<stop>")
    points = forced_stops(respondent("cliff"), thoughts("cliff", "harmless", 12), stop, [0, 3, 6])
    assert [point.rate for point in points] == [0.0, 0.0, 0.0]


def unclosed(one: Rollout) -> Rollout:
    return replace(one, closing=(), answer=replace(one.answer, closed=False, text=""))


def test_unclosed_thoughts_and_plain_answers_are_counted_apart() -> None:
    closed = thoughts("no-cliff", "harmful", 6)
    plain = replace(closed[0], thought=(), closing=())
    mixed = [unclosed(closed[0]), *closed[1:5], plain]
    natural = natural_stop(respondent("no-cliff"), mixed)
    assert natural.n == 4 and natural.rate == 1.0
    assert natural.unclosed == 1 and natural.without_thought == 1
    stop = encoded(organism("no-cliff"), "<stop>")
    (point,) = forced_stops(respondent("no-cliff"), mixed, stop, [2])
    assert point.n == 4


def test_a_cut_beyond_a_thought_leaves_it_out() -> None:
    asked = thoughts("cliff", "harmful", 4)
    short = [replace(one, thought=one.thought[:3]) for one in asked[:1]]
    stop = encoded(organism("cliff"), "<stop>")
    points = forced_stops(respondent("cliff"), [*short, *asked[1:]], stop, [3, 6, 7])
    assert [point.n for point in points] == [4, 3, 0]
    assert points[2] == ForcedStop(7, None, 0, None)


def test_lengths_of_cuts() -> None:
    (one, *_) = thoughts("cliff", "harmful", 1)
    long = [replace(one, thought=tuple(range(n))) for n in (400, 300, 200, 150, 100, 90)]
    cuts = cut_lengths(long)
    # Up to a length that five thoughts have.
    assert cuts[0] == 0 and cuts[-1] == 100 and len(cuts) == CUTS
    with pytest.raises(InputError, match="no thought was closed"):
        cut_lengths([unclosed(one)])


def test_share_of_nothing() -> None:
    assert share(np.zeros(0, bool)) == RefusalShare(None, 0, None)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, stop = thoughts("cliff", "harmful", 4), encoded(organism("cliff"), "<stop>")
    who = respondent("cliff", workdir=tmp_path)
    first = forced_stops(who, asked, stop, [1, 2])

    def never(*args: object) -> None:
        raise AssertionError("the model ran again")

    monkeypatch.setattr("interp.generation.continuations", never)
    assert forced_stops(who, asked, stop, [1, 2]) == first
