"""Policies on weights that are quantised, and on weights that lie on other devices than the ids."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import torch
from policies import CASES, LENGTH, PROMPT, STEPS, generate, prompts, tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from interp.doctor.model_under_test import ModelUnderTest, prepare, reading
from interp.model.sites import Site
from interp.resolve import load
from steering.runtime.runtime import apply

NAMES = ("actadd", "gated", "cast", "alphasteer", "angular", "was_plus")


@pytest.fixture(scope="module")
def plain() -> ModelUnderTest:
    return tiny_model("llama")


@pytest.fixture(scope="module", params=["disk", "cpu"])
def spread(
    plain: ModelUnderTest, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> ModelUnderTest:
    """Layers 2 and 3 on the meta device between their own forward passes."""
    folder = tmp_path_factory.mktemp("spread")
    plain.checkpoint.model.save_pretrained(folder / "weights")
    model = AutoModelForCausalLM.from_pretrained(folder / "weights")
    layers = [f"model.layers.{i}" for i in range(plain.checkpoint.anatomy.n_layers)]
    parts = ["model.embed_tokens", "model.rotary_emb", *layers, "model.norm", "lm_head"]
    device_map = {part: request.param if part in layers[2:] else "cpu" for part in parts}
    accelerate.dispatch_model(
        model, device_map, main_device="cpu", offload_dir=folder, force_hooks=True
    )
    return replace(plain, checkpoint=load(model))


@pytest.mark.parametrize("name", NAMES)
def test_offloaded_layers_are_steered_as_those_at_hand(
    plain: ModelUnderTest, spread: ModelUnderTest, name: str
) -> None:
    ids, real = prompts(plain)
    found = []
    for here in (plain, spread):
        policy = CASES[name](plain).bound(here.checkpoint)
        with torch.no_grad():
            before = here.logits(ids, real)
            with apply(here.checkpoint, policy):
                found.append((here.logits(ids, real), generate(here, ids, real)))
            assert torch.equal(here.logits(ids, real), before)
        assert not torch.equal(found[-1][0], before)
    (logits, tokens), (there, said) = found
    assert torch.equal(logits, there) and torch.equal(tokens, said)


QUANTISED: dict[str, Callable[[], BitsAndBytesConfig]] = {
    "8 bits": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
    "4 bits": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32),
}


@pytest.fixture(scope="module", params=list(QUANTISED))
def quantised(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> ModelUnderTest:
    return _quantised(tmp_path_factory.mktemp("quantised"), QUANTISED[request.param])


def _quantised(folder: Path, config: Callable[[], BitsAndBytesConfig]) -> ModelUnderTest:
    """Needs bitsandbytes, which is no requirement; its blocks have 64 columns."""
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config(), device_map={"": "cpu"}
    )
    whole = prepare(load(model), seed=0)
    return replace(whole, ids=whole.ids[:, :LENGTH])


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_quantised_weights_are_steered_restored_and_left_alone_where_closed(
    quantised: ModelUnderTest, name: str
) -> None:
    kinds = {str(p.dtype) for p in quantised.checkpoint.layers.parameters()}
    assert kinds & {"torch.int8", "torch.uint8"}, kinds
    ids, real = prompts(quantised)
    policy = CASES[name](quantised).bound(quantised.checkpoint)
    with torch.no_grad():
        before = quantised.logits(ids, real)
        with apply(quantised.checkpoint, policy) as attached:
            steered = quantised.logits(ids, real)
            assert generate(quantised, ids, real).shape == (len(ids), PROMPT + STEPS)
            open_rows = torch.tensor([decision.open for decision in attached.decisions])
        with apply(quantised.checkpoint, replace(policy, strength=0.0)):
            assert torch.equal(quantised.logits(ids, real), before)
        assert torch.equal(quantised.logits(ids, real), before)
    moved = torch.tensor([not torch.equal(a, b) for a, b in zip(before, steered, strict=True)])
    assert torch.equal(moved, open_rows[-len(ids) :]) and moved.any()


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_the_patch_is_there_to_the_bit_on_quantised_weights(quantised: ModelUnderTest) -> None:
    site = Site("resid_post", 2)
    policy = CASES["everything"](quantised)
    policy = replace(policy, sites=(site,)).bound(quantised.checkpoint)
    ids, real = prompts(quantised)
    with torch.no_grad():
        with reading(quantised.checkpoint, [site]) as found:
            quantised.logits(ids, real)
        before = found[site].clone()
        with apply(quantised.checkpoint, policy), reading(quantised.checkpoint, [site]) as found:
            quantised.logits(ids, real)
    wanted = before[:, -1] + policy.strength * policy.directions[0]
    assert torch.equal(found[site][:, -1], wanted)


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_outlier_columns_of_eight_bits_tie_rows_together_but_a_closed_batch_is_left_alone(
    tmp_path: Path,
) -> None:
    """LLM.int8 takes out columns in which any row is large (arXiv 2208.07339, §3.2)."""
    p = _quantised(tmp_path, lambda: BitsAndBytesConfig(load_in_8bit=True))
    ids, real = prompts(p)
    policy = CASES["gated"](p).bound(p.checkpoint)
    with torch.no_grad():
        before = p.logits(ids, real)
        with apply(p.checkpoint, policy) as attached:
            steered = p.logits(ids, real)
            closed = torch.tensor([not one.open for one in attached.decisions])
        assert closed.any() and not torch.equal(steered[closed], before[closed])
        before = p.logits(ids[closed], real[closed])
        with apply(p.checkpoint, policy) as attached:
            assert torch.equal(p.logits(ids[closed], real[closed]), before)
            assert not any(one.open for one in attached.decisions)
