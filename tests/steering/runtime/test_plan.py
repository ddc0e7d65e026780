"""What the runtime takes: one policy, several that share no site, or a composition."""

from typing import Any

import pytest
import torch

from interp.errors import InputError
from interp.model.sites import Site
from steering import Policy, act_add, compose
from steering.runtime.plan import Plan, PolicyLike, planned


def policy(layer: int, name: str = "post") -> Policy:
    return act_add([Site(f"resid_{name}", layer)], torch.ones(1, 8), 1.0)


def test_policies_and_compositions_are_what_the_runtime_knows_them_by() -> None:
    one, both = policy(0), compose(policy(0), policy(1))
    assert isinstance(one, PolicyLike) and not isinstance(one, Plan)
    assert isinstance(both, Plan) and not isinstance(both, PolicyLike)


def test_everything_becomes_a_plan() -> None:
    one, other = policy(0), policy(1)
    assert planned(one).policies == (one,)
    assert planned([other, one]).policies == (other, one)
    assert planned([other, one]).rows is None
    both = compose(one, other)
    assert planned(both) is both


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([policy(0), policy(1, "pre")], "both edit blocks.1.hook_resid_pre"),
        ([], "compose one policy or more"),
        ([policy(0)] * 2, "compose one policy or more, each once"),
        ("calm", "policy is the string 'calm', and must be of type Policy or Composition"),
        (7, "policy is 7, and must be"),
        ([policy(0), "calm"], "a policy is the string 'calm', and must be of type Policy"),
    ],
)
def test_what_is_no_plan_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(given)
