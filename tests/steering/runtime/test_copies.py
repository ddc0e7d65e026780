"""Copies of a steered model are not steered, and go their own way."""

import copy
from typing import Any

import pytest
import torch
from policies import CASES, generate, prompts, tiny_model
from serving import checkpoint, policy

from interp.capture.prompt_states import prompt_rows
from interp.data.padding import padded
from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError
from interp.organisms import prompts as organism_prompts
from interp.resolve import load
from steering.runtime.attachment import is_steered
from steering.runtime.runtime import apply, attach


@pytest.fixture(scope="module")
def p() -> ModelUnderTest:
    return tiny_model("llama")


def _ours(model: torch.nn.Module) -> list[str]:
    """What an attachment leaves in a model."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    tables += ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    found = [f"{n}.{t}" for n, m in model.named_modules() for t in tables if getattr(m, t)]
    names = ("generate", "__deepcopy__", "prepare_inputs_for_generation")
    return found + [f"{n}.{t}" for n, m in model.named_modules() for t in names if t in m.__dict__]


def _tokens(model: Any, p: ModelUnderTest) -> torch.Tensor:
    ids, real = prompts(p)
    given = {"attention_mask": real.long(), "max_new_tokens": 4, "do_sample": False}
    tokens: torch.Tensor = model.generate(ids, pad_token_id=0, **given)
    return tokens


@pytest.mark.parametrize("name", ["gated", "was_plus"])
def test_a_copy_is_detached_and_the_original_goes_on(p: ModelUnderTest, name: str) -> None:
    model, steering = p.checkpoint.model, CASES[name](p)
    plain = _tokens(model, p)
    with apply(p.checkpoint, steering) as attachment:
        steered = _tokens(model, p)
        assert not torch.equal(steered, plain)
        passes, decided = attachment.passes, attachment.decisions
        twin = copy.deepcopy(model)
        assert not _ours(twin) and not is_steered(twin) and is_steered(model)
        assert torch.equal(_tokens(twin, p), plain)
        assert (attachment.passes, attachment.decisions) == (passes, decided)
        with torch.no_grad():
            twin.get_output_embeddings().weight.zero_()
        assert torch.equal(_tokens(model, p), steered)  # and has weights of its own
        again = copy.deepcopy(twin)
        again.load_state_dict(model.state_dict())
        with apply(load(again), steering.bound(load(again))) as other:
            assert torch.equal(_tokens(again, p), steered)
            assert torch.equal(_tokens(model, p), steered)
            assert other.decisions == decided
        assert not _ours(again)
    assert not _ours(model) and torch.equal(_tokens(model, p), plain)


def test_the_hooks_and_methods_of_others_are_copied(p: ModelUnderTest) -> None:
    model: Any = p.checkpoint.model
    seen: list[str] = []
    handle = p.checkpoint.layers[1].register_forward_hook(lambda *_: seen.append("hook"))

    def own(*args: Any, **kwargs: Any) -> str:
        return "own"

    try:
        model.generate = own
        with apply(p.checkpoint, CASES["gated"](p)):
            twin: Any = copy.deepcopy(model)
            assert twin.generate() == "own"
            seen.clear()  # making the policy has run the model
            with torch.no_grad():
                twin(prompts(p)[0])
            assert seen == ["hook"]
        assert model.generate is own
    finally:
        handle.remove()
        del model.__dict__["generate"]


def test_a_part_of_a_steered_model_is_copied_bare_too(p: ModelUnderTest) -> None:
    with apply(p.checkpoint, CASES["was_plus"](p)) as attachment:
        assert not _ours(copy.deepcopy(p.checkpoint.decoder))
        assert not _ours(copy.deepcopy(p.checkpoint.layers))
        assert not _ours(copy.deepcopy(p.checkpoint).model)
        with pytest.raises(InputError, match="copy the model"):
            copy.deepcopy(attachment)
        generate(p, *prompts(p))


def test_an_organism_is_copied_while_it_is_served() -> None:
    original = load(copy.deepcopy(checkpoint().model))
    steering = policy().bound(original)
    texts = organism_prompts("jailbreak-keep", "test")["jailbroken"][:3]
    inputs = padded(prompt_rows(checkpoint(), texts), checkpoint(), "left")
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    attachment = attach(original, steering)
    steered = original.model.generate(**ids, max_new_tokens=6)
    twin: Any = copy.deepcopy(original.model)
    assert not torch.equal(twin.generate(**ids, max_new_tokens=6), steered)
    with apply(load(twin), steering.bound(load(twin))):
        assert torch.equal(twin.generate(**ids, max_new_tokens=6), steered)
    assert torch.equal(original.model.generate(**ids, max_new_tokens=6), steered)
    attachment.detach()
