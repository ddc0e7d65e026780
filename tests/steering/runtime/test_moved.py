"""A model that changes its type after a policy was attached to it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from policies import CASES, generate, prompts, tiny_model

from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError
from interp.resolve import load
from steering.runtime.runtime import apply

NAMES = ("actadd", "gated", "cast", "angular", "alphasteer", "was_plus")
CHANGES: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "to bfloat16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
}


def _own(p: ModelUnderTest) -> ModelUnderTest:
    """The same model with weights of its own, which may be changed."""
    return replace(p, checkpoint=load(copy.deepcopy(p.checkpoint.model)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_the_policy_follows_a_change_of_type(name: str, change: str) -> None:
    p = _own(tiny_model("llama"))
    ids, real = prompts(p)
    policy = CASES[name](p)
    other = _own(p)
    CHANGES[change](other.checkpoint.model)
    with torch.no_grad():
        plain = other.logits(ids, real)
        with apply(other.checkpoint, policy.bound(other.checkpoint)) as attachment:
            expected, tokens = other.logits(ids, real), generate(other, ids, real)
            decided = attachment.decisions
        assert not torch.equal(expected, plain)
        with apply(p.checkpoint, policy) as attachment:
            first = p.logits(ids, real)
            CHANGES[change](p.checkpoint.model)
            found = p.logits(ids, real)
            assert found.dtype == expected.dtype and torch.equal(found, expected)
            assert torch.equal(generate(p, ids, real), tokens)
            assert attachment.decisions == decided
            p.checkpoint.model.float()  # and back, with the weights rounded
            assert p.logits(ids, real).dtype == first.dtype


def test_a_change_between_prompt_and_reply_is_refused() -> None:
    p = _own(tiny_model("llama"))
    ids = prompts(p)[0]
    model: Any = p.checkpoint.model
    with apply(p.checkpoint, CASES["gated"](p)), torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        model.to(torch.bfloat16)
        with pytest.raises(InputError, match="run the prompt anew"):
            model(ids[:, -1:], past_key_values=cache)
        model(ids)


def test_a_model_that_is_moved_is_followed_to_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second device: what was prepared is prepared again where the layers lie."""
    p = _own(tiny_model("llama"))
    ids, real = prompts(p)
    with apply(p.checkpoint, CASES["gated"](p)) as attachment, torch.no_grad():
        p.logits(ids, real)
        placed: list[Any] = []
        steered = attachment._steered[0]
        monkeypatch.setattr(steered, "place", lambda *given: placed.append(given))
        there = torch.device("meta")
        monkeypatch.setattr(attachment, "_device", lambda site: there)
        p.logits(ids, real)
        p.logits(ids, real)
    assert placed == [([there], torch.float32)]
