"""Attention under observation, over every supported family: parity, statistics, restoration."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from batches import PADDINGS, Batch, batch
from families import FAMILIES, REFUSED, WINDOW, tiny
from refused import bypassing
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from interp import InputError, UnsupportedModelError
from interp.attention.kernels import AttentionStatistics, Demand
from interp.attention.statistics import AttentionCall, Tap, observe
from interp.model.anatomy import Anatomy, read_anatomy
from interp.model.modules import attention_module, decoder_layers

EVERYTHING = Demand(True, True, True, True, True, True)
NO_SDPA = {"gemma2", "gpt_oss"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def first_keys(inputs: Batch) -> Tensor:
    """The first real position of each row, the fourth and the tenth."""
    first = inputs.real.int().argmax(1)
    return torch.stack([first, first + 3, first + 9], 1).clamp_max(inputs.real.shape[1] - 1)


def watched(
    model: Any,
    inputs: Batch,
    demand: Demand = EVERYTHING,
    attention: str = "auto",
) -> tuple[Tensor, dict[int, AttentionStatistics]]:
    """Logits and the statistics of every softmax layer."""
    anatomy = read_anatomy(model)
    seen: dict[int, AttentionStatistics] = {}

    def receive(call: AttentionCall) -> None:
        assert call.layer not in seen
        if call.statistics is not None:
            seen[call.layer] = call.statistics

    taps = {
        layer: Tap(receive, demand, inputs.real, first_keys(inputs))
        for layer in anatomy.softmax_layers
    }
    with torch.no_grad(), observe(model, anatomy, taps, attention):
        logits = model(**inputs.arguments()).logits
    return logits, seen


def plain(model: Any, inputs: Batch) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**inputs.arguments()).logits
    return logits


def eager_weights(model: Any, inputs: Batch) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits of the model file's eager attention and its weights, read off each module."""
    model.set_attn_implementation("eager")
    weights: dict[int, Tensor] = {}
    handles = []
    for index, layer in enumerate(decoder_layers(model)):
        module = attention_module(layer)
        if module is not None:

            def keep(_: nn.Module, __: Any, output: Any, index: int = index) -> None:
                weights[index] = output[1].double()

            handles.append(module.register_forward_hook(keep))
    logits = plain(model, inputs)
    for handle in handles:
        handle.remove()
    return logits, weights


def from_weights(weights: Tensor, inputs: Batch, anatomy: Anatomy, layer: int) -> dict[str, Tensor]:
    """What the statistics should be, from a T×T matrix."""
    counted = weights * inputs.real[:, None, :, None]
    rows = counted.sum(-1, keepdim=True)
    tokens = counted / rows.clamp_min(1e-300)
    column = counted.sum(2)
    columns = counted / column.clamp_min(1e-300)[:, :, None]
    index = first_keys(inputs)[:, None, None, :].expand(-1, *counted.shape[1:3], -1)
    wanted = {
        "chosen": counted.gather(3, index),
        "column": column,
        "column_entropy": -torch.special.xlogy(columns, columns).sum(2),
        "entropy": -torch.special.xlogy(tokens, tokens).sum(3),
        "square": tokens.square().sum(3),
    }
    if anatomy.layers[layer].learned_sink:
        wanted["learned_sink"] = (1 - rows[..., 0]) * inputs.real[:, None]
    return wanted


def distance(got: Tensor, wanted: Tensor, real: Tensor) -> float:
    """Largest difference at real tokens, as a share of the largest wanted value."""
    largest = wanted[real].abs().max()
    return ((got - wanted)[real].abs().max() / largest).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_do_not_change_by_one_bit(family: str, padding: str, dtype: str) -> None:
    """Against SDPA, or against the model's own eager where transformers has no SDPA."""
    model, inputs = tiny(family, DTYPES[dtype]), batch(padding)
    own = "eager" if family in NO_SDPA else "sdpa"
    assert model.config._attn_implementation == own
    wanted = plain(model, inputs)
    for demand in (Demand(), EVERYTHING):
        got, _ = watched(model, inputs, demand)
        # On the right we need no mask at all, which only padding itself can tell.
        assert torch.equal(got[inputs.real], wanted[inputs.real])
        assert padding == "right" or torch.equal(got, wanted)
    assert torch.equal(plain(model, inputs), wanted)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_those_of_eager_weights(family: str, padding: str) -> None:
    model, inputs = tiny(family), batch(padding)
    anatomy = read_anatomy(model)
    _, statistics = watched(model, inputs)
    _, weights = eager_weights(model, inputs)
    assert set(statistics) == set(weights) == set(anatomy.softmax_layers)
    for layer, got in statistics.items():
        for name, wanted in from_weights(weights[layer], inputs, anatomy, layer).items():
            tensor = getattr(got, name)
            scale = inputs.real.shape[1] if name == "column" else 1
            assert (tensor - wanted).abs().max() / scale < 1e-5, (layer, name)


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "mistral", "qwen3_5"])
def test_statistics_in_bfloat16(family: str) -> None:
    """Against eager on the same bfloat16 model, whose weights are rounded to 8 bits."""
    model, inputs = tiny(family, torch.bfloat16), batch("left")
    anatomy = read_anatomy(model)
    layer = anatomy.softmax_layers[0]
    _, statistics = watched(model, inputs)
    _, weights = eager_weights(model, inputs)
    for name, wanted in from_weights(weights[layer], inputs, anatomy, layer).items():
        scale = inputs.real.shape[1] if name == "column" else max(1.0, wanted.max().item())
        difference = (getattr(statistics[layer], name) - wanted).abs().max() / scale
        assert difference < 2e-2, (name, difference)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_eager_path_gives_the_same(family: str, padding: str) -> None:
    model, inputs = tiny(family), batch(padding)
    logits, statistics = watched(model, inputs)
    by_eager, wanted = watched(model, inputs, attention="eager")
    assert distance(by_eager, logits, inputs.real) < 1e-5
    for layer, expected in wanted.items():
        for name in ("chosen", "column", "column_entropy", "entropy", "square", "learned_sink"):
            theirs, ours = getattr(expected, name), getattr(statistics[layer], name)
            assert (theirs is None) == (ours is None)
            if theirs is not None:
                scale = inputs.real.shape[1] if name == "column" else 1
                assert (theirs - ours).abs().max() / scale < 1e-5, (layer, name)


@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_lengths_around_the_window(length: int) -> None:
    model, inputs = tiny("mistral"), batch("none", length=length)
    anatomy = read_anatomy(model)
    keys = torch.zeros(3, 1, dtype=torch.long)
    taken: dict[int, Tensor] = {}
    taps = {
        layer: Tap(
            lambda call: taken.__setitem__(call.layer, call.statistics.chosen),
            Demand(chosen=True),
            inputs.real,
            keys,
        )
        for layer in anatomy.softmax_layers
    }
    wanted = plain(model, inputs)
    with torch.no_grad(), observe(model, anatomy, taps):
        assert torch.equal(model(**inputs.arguments()).logits, wanted)
    for mass in taken.values():
        assert (mass[:, :, :WINDOW] > 0).all()
        assert (mass[:, :, WINDOW:] == 0).all()


def test_an_unpadded_window_needs_no_mask() -> None:
    """Otherwise memory would grow with T² again."""
    model = tiny("mistral")
    shapes = []

    def peek(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        shapes.append(kwargs.get("attention_mask"))

    attention_module(decoder_layers(model)[0]).register_forward_pre_hook(peek, with_kwargs=True)
    watched(model, batch("none"))
    watched(model, batch("left"))
    assert shapes[0] is None
    assert shapes[1].shape == (3, 1, 21, 21)


@contextmanager
def registered(name: str, function: Callable[..., Any], mask: Any) -> Iterator[None]:
    AttentionInterface.register(name, function)
    if mask is not None:
        AttentionMaskInterface.register(name, mask)
    try:
        yield
    finally:
        del AttentionInterface()._global_mapping[name]
        if mask is not None:
            del AttentionMaskInterface()._global_mapping[name]


def naive(module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **kw: Any):
    """A registered function as one would first write it: causal where no mask arrives."""
    output = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        is_causal=attention_mask is None,
        scale=kw["scaling"],
        enable_gqa=True,
    )
    return output.transpose(1, 2), None


def leaky(module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **kw: Any):
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=kw["scaling"], enable_gqa=True
    )
    return output.transpose(1, 2), None


@pytest.mark.parametrize(("family", "padding"), [("mistral", "none"), ("llama", "left")])
def test_trap_no_mask_interface(family: str, padding: str) -> None:
    """Without a registered mask function windows and padding are lost, silently; not by us."""
    model, inputs = tiny(family), batch(padding)
    wanted = plain(model, inputs)
    with registered("naive_attention", naive, None):
        model.set_attn_implementation("naive_attention")
        wrong = plain(model, inputs)
        model.set_attn_implementation("sdpa")
    assert distance(wrong, wanted, inputs.real) > 0.05
    assert torch.equal(watched(model, inputs)[0], wanted)


def test_trap_a_mask_that_is_none_means_causal() -> None:
    model, inputs = tiny("llama"), batch("none")
    changed = Batch(inputs.ids.clone(), inputs.real)
    changed.ids[:, -1] = (inputs.ids[:, -1] + 1) % 90 + 3
    with registered("leaky_attention", leaky, sdpa_mask):
        model.set_attn_implementation("leaky_attention")
        leaked = (plain(model, inputs) - plain(model, changed))[:, :-1].abs().max()
        model.set_attn_implementation("sdpa")
    assert leaked > 0.05
    assert torch.equal(watched(model, inputs)[0][:, :-1], watched(model, changed)[0][:, :-1])


@pytest.mark.parametrize("kind", REFUSED)
def test_trap_families_that_would_silently_stay_eager(kind: str) -> None:
    model = bypassing(kind)
    anatomy = read_anatomy(model)
    assert not anatomy.interface
    message = r"does not route its attention .*attention=\"eager\""
    with (
        pytest.raises(UnsupportedModelError, match=message) as caught,
        observe(model, anatomy, {}),
    ):
        pass
    assert caught.value.exit_code == 3


def state(model: Any) -> tuple[Any, ...]:
    implementations = tuple(
        m.config._attn_implementation for m in model.modules() if hasattr(m, "config")
    )
    hooks = tuple(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return implementations, hooks, tuple(type(m) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_as_before_after_an_exception(family: str) -> None:
    model, inputs = tiny(family), batch("none")
    anatomy = read_anatomy(model)
    before, wanted = state(model), plain(model, inputs)

    def fail(call: AttentionCall) -> None:
        raise RuntimeError("in the middle of a forward pass")

    layer = anatomy.softmax_layers[1]
    with pytest.raises(RuntimeError, match="middle"), observe(model, anatomy, {layer: Tap(fail)}):
        model(**inputs.arguments())
    assert state(model) == before
    assert torch.equal(plain(model, inputs), wanted)
    _, statistics = watched(model, inputs)
    assert set(statistics) == set(anatomy.softmax_layers)


def test_another_copy_of_the_model_is_left_alone() -> None:
    model, inputs = tiny("llama"), batch("none")
    copied = copy.deepcopy(model)
    wanted = plain(copied, inputs)
    with observe(model, read_anatomy(model), {}):
        assert torch.equal(plain(copied, inputs), wanted)
        assert copied.config._attn_implementation == "sdpa"
        assert model.config._attn_implementation == "mechguard"
    assert model.config._attn_implementation == "sdpa"


def test_nested_observers_see_the_same_and_leave_one_by_one() -> None:
    model, inputs = tiny("llama"), batch("left")
    anatomy = read_anatomy(model)
    outer, inner = [], []

    def tap(into: list[Any], demand: Demand) -> dict[int, Tap]:
        real = inputs.real.clone()
        return {1: Tap(lambda call: into.append(call.statistics), demand, real, first_keys(inputs))}

    with torch.no_grad(), observe(model, anatomy, tap(outer, Demand(entropy=True))):
        with observe(model, anatomy, tap(inner, Demand(column=True))):
            model(**inputs.arguments())
        assert model.config._attn_implementation == "mechguard"
        model(**inputs.arguments())
    assert len(outer) == 2 and len(inner) == 1
    assert torch.equal(outer[0].entropy, outer[1].entropy)
    assert inner[0].column is not None and outer[1].column is None
    _, alone = watched(model, inputs)
    torch.testing.assert_close(inner[0].column, alone[1].column, atol=1e-6, rtol=0)


def test_two_taps_of_one_receiver_leave_in_the_right_order() -> None:
    model, inputs = tiny("llama"), batch("left")
    anatomy, seen = read_anatomy(model), []
    first = Tap(seen.append, Demand(column=True), inputs.real, first_keys(inputs))
    second = Tap(seen.append, Demand(column=True), inputs.real.clone(), first_keys(inputs))
    with torch.no_grad(), observe(model, anatomy, {0: first}):
        with observe(model, anatomy, {0: second}):
            model(**inputs.arguments())
        model(**inputs.arguments())
    assert len(seen) == 3


def test_an_edit_of_the_output_reaches_the_inner_tap_and_the_logits() -> None:
    model, inputs = tiny("llama"), batch("none")
    anatomy = read_anatomy(model)
    seen: list[Tensor] = []

    def zero_second_head(call: AttentionCall) -> None:
        mask = torch.ones(4, 1, 1)
        mask[1] = 0
        call.output = call.output * mask

    weight = attention_module(decoder_layers(model)[0]).o_proj.weight
    with torch.no_grad():
        with (
            observe(model, anatomy, {0: Tap(zero_second_head)}),
            observe(model, anatomy, {0: Tap(lambda call: seen.append(call.output))}),
        ):
            edited = model(**inputs.arguments()).logits
        weight[:, 8:16] = 0
        wanted = plain(model, inputs)
    assert (seen[0][:, 1] == 0).all() and (seen[0][:, 0] != 0).any()
    torch.testing.assert_close(edited, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_under_observation(family: str) -> None:
    """With the key-value cache, past the window, padded on the left."""
    model, inputs = tiny(family), batch("left", length=6, amount=2)
    if family in NO_SDPA:
        model.set_attn_implementation("eager")
    anatomy = read_anatomy(model)
    calls: list[tuple[int, int]] = []
    taps = {
        layer: Tap(lambda call: calls.append((call.query.shape[2], call.output.shape[2])))
        for layer in anatomy.softmax_layers
    }
    arguments = {
        "input_ids": inputs.ids,
        "attention_mask": inputs.real.long(),
        "max_new_tokens": 12,
        "min_new_tokens": 12,
        "do_sample": False,
    }
    wanted = model.generate(**arguments)
    for observed in ({}, taps):
        with observe(model, anatomy, observed):
            got = model.generate(**arguments)
        assert torch.equal(got, wanted)
    assert len(calls) == 12 * len(taps)
    assert {queries for queries, _ in calls} == {6, 1}
    assert all(queries == outputs for queries, outputs in calls)


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma2", "mistral"])
def test_statistics_during_cached_decoding_are_refused(family: str) -> None:
    model, inputs = tiny(family), batch("none")
    anatomy = read_anatomy(model)
    taps = {0: Tap(lambda call: None, Demand(column=True), inputs.real)}
    message = "without a KV cache"
    with pytest.raises(InputError, match=message), observe(model, anatomy, taps):
        model.generate(inputs.ids, attention_mask=inputs.real.long(), max_new_tokens=3)


def test_attention_outside_of_the_context_is_refused() -> None:
    model, inputs = tiny("llama"), batch("none")
    model.set_attn_implementation("mechguard")
    with pytest.raises(UnsupportedModelError, match="outside of its context"):
        plain(model, inputs)


def test_a_model_that_attends_in_both_directions_is_refused() -> None:
    model, inputs = tiny("llama"), batch("none")
    attention_module(decoder_layers(model)[0]).is_causal = False
    with pytest.raises(UnsupportedModelError, match="both directions"):
        watched(model, inputs)


def test_hidden_learned_sinks_cannot_be_read_off_eager_weights() -> None:
    """Granite-SWA's rows sum to one; the recipes compute its sinks, the eager path must refuse."""
    import transformers

    config = transformers.GraniteSWAConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=WINDOW,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    inputs = batch("none")
    logits, statistics = watched(model, inputs)
    assert torch.isfinite(logits).all()
    assert any(s.learned_sink is not None for s in statistics.values())
    with pytest.raises(UnsupportedModelError, match="hide its learned sinks"):
        watched(model, inputs, attention="eager")


def test_chunked_attention_is_no_window() -> None:
    """Llama-4 hands its chunk over where others hand their window; the mask must decide."""
    import transformers

    config = transformers.Llama4TextConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        attention_chunk_size=WINDOW,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.Llama4ForCausalLM(config).eval()
    anatomy = read_anatomy(model)
    for inputs in (batch("none"), batch("left"), batch("none", length=WINDOW)):
        model.set_attn_implementation("sdpa")
        wanted = plain(model, inputs)
        logits, statistics = watched(model, inputs)
        assert torch.equal(logits, wanted)
        _, weights = eager_weights(model, inputs)
        for layer, got in statistics.items():
            expected = from_weights(weights[layer], inputs, anatomy, layer)
            assert (got.column - expected["column"]).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_documents_packed_into_one_row_stay_apart(family: str) -> None:
    """transformers tells them by positions that start again; here in the second row only."""
    model, inputs = tiny(family), batch("none")
    positions = inputs.positions.clone()
    positions[1, 12:] -= 12
    arguments = {"input_ids": inputs.ids, "position_ids": positions, "use_cache": False}
    with torch.no_grad():
        wanted = model(**arguments).logits
        with observe(model, read_anatomy(model), {}):
            got = model(**arguments).logits
    assert torch.equal(got, wanted)
    apart = plain(model, Batch(inputs.ids[1:2, 12:], inputs.real[1:2, 12:]))
    assert distance(got[1:2, 12:], apart, inputs.real[1:2, 12:]) < 1e-5


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss"])
def test_gradients_are_those_of_the_plain_model(family: str) -> None:
    model, inputs = tiny(family), batch("none")
    if family in NO_SDPA:
        model.set_attn_implementation("eager")
    anatomy = read_anatomy(model)
    model(**inputs.arguments()).logits.square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    taps = {
        layer: Tap(lambda call: None, EVERYTHING, inputs.real, first_keys(inputs))
        for layer in anatomy.softmax_layers
    }
    with observe(model, anatomy, taps):
        model(**inputs.arguments()).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            largest = wanted[name].abs().max()
            assert (parameter.grad - wanted[name]).abs().max() <= 1e-4 * largest + 1e-8, name
