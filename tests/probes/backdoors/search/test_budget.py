"""What a search may cost."""

import pytest

from interp.errors import InputError
from probes.backdoors.search.budget import Budget, Exhausted


def test_what_is_taken_is_counted_and_more_than_there_is_is_refused() -> None:
    budget = Budget(10, 5.0)
    budget.take(7)
    with pytest.raises(Exhausted):
        budget.take(4)
    assert (budget.spent, budget.left) == (7, 3)
    budget.take(3)
    assert not budget.exhausted


def test_time_runs_out_on_the_wall_clock() -> None:
    now = [0.0]
    budget = Budget(10, 5.0, clock=lambda: now[0])
    budget.take(1)
    now[0] = 5.1
    with pytest.raises(Exhausted):
        budget.take(1)


def test_a_stage_has_a_share_and_is_named_when_it_is_cut() -> None:
    budget = Budget(100, 5.0)
    with budget.stage("leak", 0.2) as part:
        part.take(20)
        part.take(1)
        pytest.fail("the stage had only 20")
    assert budget.cut == ["leak"] and budget.exhausted and budget.spent == 20
    with budget.stage("trials", 1.0) as part:
        assert part.left == 80
        part.take(80)
    assert budget.cut == ["leak"]


@pytest.mark.parametrize(("passes", "seconds"), [(0, 1.0), (1, 0.0)])
def test_nothing_to_spend_is_refused(passes: int, seconds: float) -> None:
    with pytest.raises(InputError, match="buys nothing"):
        Budget(passes, seconds)
