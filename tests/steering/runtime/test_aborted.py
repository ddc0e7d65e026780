"""A prompt that is aborted anywhere leaves the attachment as it was before the prompt."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from policies import CASES, STEPS, gated, generate, logistic, prompts, tiny_model

from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError
from steering.runtime.attachment import Attachment
from steering.runtime.runtime import apply
from steering.runtime.span import Span

NAMES = ("gated", "was", "was_plus", "actadd", "last")
ERRORS = (torch.OutOfMemoryError, KeyboardInterrupt, ValueError)


@pytest.fixture(scope="module")
def p() -> ModelUnderTest:
    return tiny_model("llama")


@contextmanager
def _failing(module: torch.nn.Module, error: type[BaseException], after: int = 0) -> Any:
    """The module fails from its `after`-th call on."""
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) > after:
            raise error

    handle = module.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def _modules(p: ModelUnderTest) -> list[torch.nn.Module]:
    """Below the gates, between gate and edit, above all, and behind the decoder."""
    layers, model = p.checkpoint.layers, p.checkpoint.model
    return [p.checkpoint.embedding, *(layers[i] for i in range(4)), model.get_output_embeddings()]


def _bare(p: ModelUnderTest) -> torch.Tensor:
    with torch.no_grad():
        return p.logits(*prompts(p))


def _told(p: ModelUnderTest, attachment: Attachment) -> torch.Tensor:
    ids, real = prompts(p)
    with attachment.prompts(real.sum(-1)), torch.no_grad():
        return p.greedy(ids, real, STEPS, cached=True)[0]


WAYS: dict[str, Callable[[ModelUnderTest, Attachment], torch.Tensor]] = {
    "generate": lambda p, _: generate(p, *prompts(p)),
    "chunks": lambda p, _: generate(p, *prompts(p), prefill_chunk_size=2),
    "bare": lambda p, _: _bare(p),
    "told": _told,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_next_prompt_is_that_of_a_fresh_attachment(
    p: ModelUnderTest, name: str, way: str
) -> None:
    run, policy = WAYS[way], CASES[name](p)
    with apply(p.checkpoint, policy) as attachment:
        expected, decided = run(p, attachment), attachment.decisions
        fired = attachment.fired
    with apply(p.checkpoint, policy) as attachment:
        for number, module in enumerate(_modules(p)):
            error = ERRORS[number % len(ERRORS)]
            with _failing(module, error), pytest.raises(error):
                run(p, attachment)
            assert not attachment._steady and not attachment._reading
            assert not any(steered.inert for steered in attachment._steered)
            assert torch._dynamo.eval_frame._stance.stance == "default"
            found = run(p, attachment)
            assert torch.equal(found, expected), (name, number)
            assert attachment.decisions == decided
        whole = attachment.passes
    # A prompt whose logits failed ran whole through the decoder, if it was in one pass.
    assert whole - len(_modules(p)) in (0, 1)
    assert set(fired.values()) == {1}


@pytest.mark.parametrize("error", ERRORS)
def test_nothing_stands_decided_after_the_abort(
    p: ModelUnderTest, error: type[BaseException]
) -> None:
    with apply(p.checkpoint, CASES["gated"](p)) as attachment:
        with _failing(p.checkpoint.layers[3], error), pytest.raises(error):
            _bare(p)
        with pytest.raises(InputError, match="was aborted"):
            _ = attachment.decisions
    assert attachment.passes == 0  # and leaving told no silent site


@pytest.mark.parametrize("after", [0, 1])
def test_an_abort_while_only_the_gates_are_read(p: ModelUnderTest, after: int) -> None:
    """Each layer runs twice in the pass with the prompt: for the gates, and for good."""
    policy = CASES["was_plus"](p)
    with apply(p.checkpoint, policy) as attachment:
        expected, logits = generate(p, *prompts(p)), _bare(p)
        for error in ERRORS:
            for way in ("generate", "bare"):
                with (
                    _failing(p.checkpoint.layers[2], error, after),
                    pytest.raises(error),
                ):
                    WAYS[way](p, attachment)
                assert not attachment._reading
                assert torch.equal(generate(p, *prompts(p)), expected)
                assert torch.equal(_bare(p), logits)


def test_a_later_chunk_and_a_decode_step_may_fail(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    policy = CASES["gated"](p)
    with apply(p.checkpoint, policy) as attachment:
        expected, decided = generate(p, ids, real), attachment.decisions
        for options, after in (({"prefill_chunk_size": 2}, 1), ({}, 2)):
            with _failing(p.checkpoint.layers[2], ValueError, after), pytest.raises(ValueError):
                generate(p, ids, real, **options)
            if not options:  # the prompt was read whole
                assert attachment.decisions == decided
            assert torch.equal(generate(p, ids, real), expected)
            assert attachment.decisions == decided


def test_a_pass_is_repeated_where_its_prompts_were_told(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    with apply(p.checkpoint, CASES["gated"](p)) as attachment, torch.no_grad():
        with attachment.prompts(real.sum(-1)):
            expected = p.logits(ids, real)
        decided = attachment.decisions
        with attachment.prompts(real.sum(-1)):
            for module in (p.checkpoint.embedding, p.checkpoint.layers[2]):
                with _failing(module, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
                    p.logits(ids, real)
            assert torch.equal(p.logits(ids, real), expected)
        assert attachment.decisions == decided


def test_a_prompt_that_ran_whole_without_its_token_is_told_and_the_next_one_runs(
    p: ModelUnderTest,
) -> None:
    """Nothing is silent, and nothing is refused for ever."""
    policy = gated(p, logistic(p, position=-2), span=Span.last())
    short, ids = torch.tensor([[5]]), prompts(p)
    with apply(p.checkpoint, policy) as attachment, torch.no_grad():
        expected, decided = _bare(p), attachment.decisions
        p.logits(short)
        with pytest.raises(InputError, match="decides at position -2"):
            _bare(p)
        assert torch.equal(_bare(p), expected) and attachment.decisions == decided
        with pytest.raises(InputError, match="decides at position -2"):
            generate(p, short, torch.ones_like(short))
        assert generate(p, *ids) is not None and attachment.decisions == decided
    steered = apply(p.checkpoint, policy)
    with pytest.raises(InputError, match="decides at position -2"), steered, torch.no_grad():
        p.logits(short)


def test_a_cache_whose_prompt_was_not_steered_is_refused(p: ModelUnderTest) -> None:
    """As one that an aborted pass has filled in part."""
    ids = prompts(p)[0][:1]
    model: Any = p.checkpoint.model
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        steered = apply(p.checkpoint, CASES["gated"](p))
        with steered, pytest.raises(InputError, match="run the prompt anew"):
            model(torch.tensor([[5]]), past_key_values=cache)


def test_a_refused_pass_leaves_the_decisions_of_the_prompt_before(p: ModelUnderTest) -> None:
    with apply(p.checkpoint, CASES["gated"](p)) as attachment, torch.no_grad():
        _bare(p)
        decided = attachment.decisions
        model: Any = p.checkpoint.model
        packed = {"cu_seq_lens_q": torch.tensor([0, 2])}
        with pytest.raises(InputError, match="packed into one row"):
            model.model(torch.tensor([[5, 6]]), **packed)
        assert attachment.decisions == decided


def test_a_refused_strength_is_no_prompt(p: ModelUnderTest) -> None:
    with apply(p.checkpoint, CASES["gated"](p)) as attachment:
        expected = _bare(p)
        attachment.strength = [1.0, 1.0, 1.0]
        with pytest.raises(InputError, match="strength is given for 3 rows"):
            _bare(p)
        attachment.strength = 1.0
        assert torch.equal(_bare(p), expected)
