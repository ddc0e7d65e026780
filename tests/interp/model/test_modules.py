"""Finding the parts of a model by its structure."""

import pytest
import torch
from families import FAMILIES, LAYERS, REFUSED, tiny
from refused import bypassing
from torch import nn

from interp import UnsupportedModelError
from interp.model.modules import (
    attention_end,
    attention_module,
    decoder_layers,
    final_norm,
    find_projections,
    layer_path,
    mid_norm,
    mlp_end,
    out_features,
    softmax_input_projections,
    uses_attention_interface,
    uses_rotary_positions,
)

PATHS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
FUSED = {"gpt2", "gpt_neox", "phi3"}


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_parts_of_every_family(family: str) -> None:
    model = tiny(family)
    layers = decoder_layers(model)
    assert len(layers) == LAYERS
    assert layer_path(model) == PATHS.get(family, "model.layers")
    assert final_norm(model) is not None
    assert uses_attention_interface(model)
    assert uses_rotary_positions(model) == (family != "gpt2")
    for layer in layers:
        parts = find_projections(layer)
        assert parts.mlp is not None
        assert mid_norm(layer) is not None
        attention = attention_module(layer)
        if attention is None:
            assert family in {"qwen3_next", "qwen3_5", "lfm3"}
            assert parts.out is None
            continue
        assert parts.out is not None
        assert set(softmax_input_projections(attention)) == (
            set() if family in FUSED else {"q", "k", "v"}
        )


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_what_a_block_adds_is_what_its_ends_put_out(family: str) -> None:
    """The stream after a block is the stream before it plus the two ends."""
    model = tiny(family)
    layer = decoder_layers(model)[2]
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, first_input: bool = False) -> object:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if first_input:
                seen["before"] = args[0] if args else kwargs["hidden_states"]
            seen[name] = tensor

        return hook

    ends = {"attention": attention_end(layer), "mlp": mlp_end(layer)}
    if ends["attention"] is None:
        pytest.skip("a layer without softmax attention has no attn_out site")
    for name, module in ends.items():
        module.register_forward_hook(keep(name), with_kwargs=True)
    layer.register_forward_hook(keep("after", first_input=True), with_kwargs=True)
    with torch.no_grad():
        model(torch.randint(3, 97, (2, 9)))
    total = seen["before"] + seen["attention"] + seen["mlp"]
    torch.testing.assert_close(total, seen["after"], atol=1e-5, rtol=1e-5)


def test_linear_and_conv1d_count_their_rows_alike() -> None:
    from transformers.pytorch_utils import Conv1D

    assert out_features(nn.Linear(3, 7)) == out_features(Conv1D(7, 3)) == 7


@pytest.mark.parametrize("kind", REFUSED)
def test_families_that_bypass_the_interface(kind: str) -> None:
    assert not uses_attention_interface(bypassing(kind))


def test_a_model_without_decoder_layers_is_refused() -> None:
    import transformers

    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4
    )
    model = transformers.T5ForConditionalGeneration(config)
    with pytest.raises(UnsupportedModelError, match="no list of"):
        decoder_layers(model)
