"""A pass that starts in the middle gives the logits of the whole pass, bit for bit."""

from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, VOCAB, tiny

from interp.doctor.model_under_test import ModelUnderTest, prepare, reading
from interp.errors import InputError, UnsupportedModelError
from interp.interventions.edits_by_site import zero_heads
from interp.interventions.replay import start_at
from interp.model.sites import Site
from interp.resolve import load

# Outside of the attention interface; their layers return tuples.
TUPLES: dict[str, dict[str, int]] = {
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4},
    "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
}


def _prepared(family: str) -> ModelUnderTest:
    if family in TUPLES:
        config = transformers.AutoConfig.for_model(family, vocab_size=VOCAB, **TUPLES[family])
        torch.manual_seed(0)
        return prepare(load(transformers.AutoModelForCausalLM.from_config(config)), seed=0)
    return prepare(load(tiny(family)), seed=0)


def _streams(tested: ModelUnderTest, ids: Any, real: Any = None) -> tuple[list[Any], torch.Tensor]:
    sites = [Site("resid_pre", layer) for layer in range(tested.checkpoint.anatomy.n_layers)]
    with torch.inference_mode(), reading(tested.checkpoint, sites) as found:
        logits = tested.logits(ids, real)
    return [found[site] for site in sites], logits


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", [*FAMILIES, *TUPLES])
def test_the_rest_of_the_pass_is_bit_equal(family: str, side: str | None) -> None:
    tested = _prepared(family)
    ids, real = tested.padded(side) if side else (tested.ids, None)
    streams, plain = _streams(tested, ids, real)
    for layer, hidden in enumerate(streams):
        with torch.inference_mode(), start_at(tested.checkpoint, layer, hidden):
            assert torch.equal(tested.logits(ids, real), plain)
    assert not any("forward" in vars(layer) for layer in tested.checkpoint.layers)
    with torch.inference_mode():
        assert torch.equal(tested.logits(ids, real), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_in_is_what_counts(family: str) -> None:
    """The token ids do not matter, and the layers below do not run."""
    tested = _prepared(family)
    streams, plain = _streams(tested, tested.ids)
    ran: list[int] = []
    handles = [
        module.register_forward_hook(lambda *_, i=index: ran.append(i))
        for index, layer in enumerate(tested.checkpoint.layers)
        for module in list(layer.children())[:1]
    ]
    with torch.inference_mode(), start_at(tested.checkpoint, 2, streams[2]):
        assert torch.equal(tested.logits(tested.ids.flip(0)), plain)
    for handle in handles:
        handle.remove()
    assert set(ran) == {2, 3}


@pytest.mark.parametrize("family", FAMILIES)
def test_many_heads_share_a_batch(family: str) -> None:
    """The causal panel's trick: one prompt, a row for each head, only the layers from l on."""
    tested = _prepared(family)
    layer = tested.checkpoint.anatomy.softmax_layers[-1]
    prompt = tested.ids[:1]
    streams, _ = _streams(tested, prompt)
    copies = prompt.expand(4, -1)
    with (
        torch.inference_mode(),
        start_at(tested.checkpoint, layer, streams[layer].expand(4, -1, -1)),
        zero_heads(tested.checkpoint, layer, torch.eye(4, dtype=torch.bool)),
    ):
        together = tested.logits(copies)
    for head in range(4):
        with torch.inference_mode(), zero_heads(tested.checkpoint, layer, [head]):
            alone = tested.logits(prompt)[0]
        assert (together[head] - alone).abs().max() <= 2e-5 * alone.abs().max()


def test_a_cache_or_a_wrong_shape_is_refused() -> None:
    tested = _prepared("llama")
    streams, plain = _streams(tested, tested.ids)
    with (
        pytest.raises(InputError, match="use_cache=False"),
        start_at(tested.checkpoint, 2, streams[2]),
    ):
        tested.run(tested.ids, use_cache=True)
    with (
        pytest.raises(InputError, match=r"has shape \[1, 24, 32\], but the pass needs"),
        start_at(tested.checkpoint, 2, streams[2][:1]),
    ):
        tested.logits(tested.ids)
    with pytest.raises(InputError, match="no layer 4"), start_at(tested.checkpoint, 4, streams[0]):
        pytest.fail("the context was entered")
    with torch.inference_mode():
        assert torch.equal(tested.logits(tested.ids), plain)


def test_layers_that_hand_on_something_else_are_refused() -> None:
    tested = _prepared("llama")
    streams, _ = _streams(tested, tested.ids)
    handle = tested.checkpoint.layers[0].register_forward_hook(lambda _, __, output: (output,))
    with (
        pytest.raises(UnsupportedModelError, match="hand on tuple"),
        start_at(tested.checkpoint, 2, streams[2]),
    ):
        tested.logits(tested.ids)
    handle.remove()


def test_an_own_forward_of_a_layer_comes_back() -> None:
    """accelerate puts a forward of its own on each layer of a dispatched model."""
    tested = _prepared("llama")
    streams, plain = _streams(tested, tested.ids)
    layer = tested.checkpoint.layers[0]
    own = type(layer).forward.__get__(layer)
    layer.forward = own
    with torch.inference_mode(), start_at(tested.checkpoint, 2, streams[2]):
        assert torch.equal(tested.logits(tested.ids), plain)
    assert vars(layer)["forward"] is own
