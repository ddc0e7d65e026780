"""Two threads on one attachment: the second is refused, and the first goes on as if alone."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from policies import CASES, generate, prompts, tiny_model

from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError
from interp.resolve import load
from steering.runtime.runtime import apply
from steering.runtime.threads import Turn


@pytest.fixture(scope="module")
def p() -> ModelUnderTest:
    return tiny_model("llama")


def _in_a_thread(work: Callable[[], Any]) -> Any:
    """What it returns or raises there."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return found[0]


def _bare(p: ModelUnderTest) -> torch.Tensor:
    with torch.no_grad():
        return p.logits(*prompts(p))


@pytest.mark.parametrize("name", ["gated", "was_plus"])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_pass_while_another_thread_runs_one_is_refused(
    p: ModelUnderTest, name: str, step: int
) -> None:
    """In the prompt, in the reading of late gates, and in steady steps."""
    with apply(p.checkpoint, CASES[name](p)) as attachment:
        expected, decided = generate(p, *prompts(p)), attachment.decisions
        calls: list[int] = []
        refused: list[Any] = []

        def meanwhile(*_: Any) -> None:
            calls.append(1)
            if len(calls) == step + 1:
                refused.append(_in_a_thread(lambda: _bare(p)))
                refused.append(_in_a_thread(lambda: generate(p, *prompts(p))))
                told = attachment.prompts([1, 2, 3, 4])
                refused.append(_in_a_thread(told.__enter__))

        handle = p.checkpoint.layers[2].register_forward_hook(meanwhile)
        try:
            assert torch.equal(generate(p, *prompts(p)), expected)
        finally:
            handle.remove()
        assert attachment.decisions == decided
        assert len(refused) == 3
        for one in refused:
            assert isinstance(one, InputError) and "one thread at a time" in str(one)
        assert torch.equal(_in_a_thread(lambda: generate(p, *prompts(p))), expected)


def test_told_prompts_keep_others_out_between_passes(p: ModelUnderTest) -> None:
    real = prompts(p)[1]
    with apply(p.checkpoint, CASES["gated"](p)) as attachment:
        with attachment.prompts(real.sum(-1)):
            assert isinstance(_in_a_thread(lambda: _bare(p)), InputError)
        assert isinstance(_in_a_thread(lambda: _bare(p)), torch.Tensor)


def test_a_pass_that_was_aborted_in_one_thread_keeps_no_other_out(p: ModelUnderTest) -> None:
    """An interrupt tells no hook that the pass has ended."""
    with apply(p.checkpoint, CASES["gated"](p)) as attachment:
        expected = _bare(p)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        handle = p.checkpoint.layers[2].register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            _bare(p)
        handle.remove()
        assert attachment._turn.passing
        assert torch.equal(_in_a_thread(lambda: _bare(p)), expected)
        assert torch.equal(_bare(p), expected)


def test_a_thread_that_died_keeps_nobody_out() -> None:
    turn = Turn()

    def die() -> None:
        turn.held().__enter__()
        turn.begin()

    _in_a_thread(die)
    assert turn.begin()  # the pass before never ended
    assert turn.end()
    assert not turn.passing


def test_each_thread_with_a_copy_of_its_own(p: ModelUnderTest) -> None:
    steering = CASES["gated"](p)
    ids, real = prompts(p)
    with apply(p.checkpoint, steering):
        expected = generate(p, ids, real)
    given = {"attention_mask": real.long(), "max_new_tokens": 4, "pad_token_id": 0}

    def work() -> torch.Tensor:
        twin = load(copy.deepcopy(p.checkpoint.model))
        model: Any = twin.model
        with apply(twin, steering.bound(twin)):
            tokens: torch.Tensor = model.generate(ids, min_new_tokens=4, **given)
            return tokens

    assert torch.equal(_in_a_thread(work), expected)
