"""Find the parts of a transformers model by its structure, without running it."""

import sys
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from interp.errors import UnsupportedModelError

_OUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo")
_MLP_NAMES = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "moe")
_FINAL_NORM_NAMES = (
    "norm",
    "ln_f",
    "norm_f",
    "final_layer_norm",
    "final_layernorm",
    "embedding_norm",
)
# The norm that reads the residual stream between attention and MLP, most specific first: where
# `pre_feedforward_layernorm` exists, `post_attention_layernorm` is a sandwich norm instead.
_MID_NORM_NAMES = ("pre_feedforward_layernorm", "pre_mlp_layernorm", "ln_2", "ffn_norm")
# Norms of what a part adds to the stream, in sandwich and post-norm blocks.
_ATTENTION_END_NAMES = (
    "post_self_attn_layernorm",
    "post_operator_norm",
    "post_attention_layernorm",
)
_MLP_END_NAMES = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_norm")


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The language model's own config, also inside a multimodal one."""
    return config.get_text_config(decoder=True)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers.

    Raises:
        UnsupportedModelError: no module list has `num_hidden_layers` entries.
    """
    count = text_config(model.config).num_hidden_layers
    found = [
        (name.count("."), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and any(attention_module(layer) is not None for layer in module)
    ]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of {count} decoder layers with attention; "
            "mechguard measures decoder-only transformers."
        )
    return min(found, key=lambda item: item[:2])[2]


def layer_path(model: PreTrainedModel) -> str:
    """Dotted path of the decoder layers inside `model`."""
    layers = decoder_layers(model)
    return next(name for name, module in model.named_modules() if module is layers)


def attention_module(layer: nn.Module) -> nn.Module | None:
    """The softmax attention of a decoder layer, or None in a linear-attention layer."""
    for name in ("self_attn", "attn", "attention", "self_attention", "self_attn_layer"):
        child = getattr(layer, name, None)
        if not isinstance(child, nn.Module):
            continue
        inner = getattr(child, "attention", None)
        child = inner if isinstance(inner, nn.Module) else child
        if any(getattr(child, out, None) is not None for out in _OUT_NAMES):
            return child
    return None


@dataclass(frozen=True)
class Projections:
    """Sub-modules of one decoder layer; None where the layer has no such part."""

    out: nn.Module | None
    mlp: nn.Module | None


def find_projections(layer: nn.Module) -> Projections:
    """The attention's output projection and the MLP (or mixture of experts) of a layer."""
    attention = attention_module(layer)
    out = None
    if attention is not None:
        out = next((m for n in _OUT_NAMES if (m := getattr(attention, n, None)) is not None), None)
    mlp = next((m for n in _MLP_NAMES if (m := getattr(layer, n, None)) is not None), None)
    return Projections(out, mlp)


def softmax_input_projections(attention: nn.Module) -> dict[str, nn.Module]:
    """Separate query, key and value projections, by site name; empty where they are fused."""
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
    found = {site: getattr(attention, name, None) for site, name in names.items()}
    if any(module is None for module in found.values()):
        return {}
    return {site: module for site, module in found.items() if module is not None}


def mid_norm(layer: nn.Module) -> nn.Module | None:
    """The module whose input is the residual stream between attention and MLP (`resid_mid`)."""
    for name in _MID_NORM_NAMES:
        module = getattr(layer, name, None)
        if isinstance(module, nn.Module):
            return module
    if isinstance(getattr(layer, "post_feedforward_layernorm", None), nn.Module):
        # OLMo-2 normalises after each part, so the MLP reads the stream itself.
        return find_projections(layer).mlp
    module = getattr(layer, "post_attention_layernorm", None)
    return module if isinstance(module, nn.Module) else None


def attention_end(layer: nn.Module) -> nn.Module | None:
    """The module whose output the attention adds to the stream: its closing norm, or itself."""
    for name in _ATTENTION_END_NAMES:
        norm = getattr(layer, name, None)
        if isinstance(norm, nn.Module) and norm is not mid_norm(layer):
            return norm
    return attention_module(layer)


def mlp_end(layer: nn.Module) -> nn.Module | None:
    """The module whose output the MLP adds to the stream: its closing norm, or itself."""
    for name in _MLP_END_NAMES:
        norm = getattr(layer, name, None)
        if isinstance(norm, nn.Module):
            return norm
    return find_projections(layer).mlp


def final_norm(model: PreTrainedModel) -> nn.Module | None:
    """The norm after the last decoder layer."""
    layers = decoder_layers(model)
    for module in model.modules():
        if any(child is layers for child in module.children()):
            for name in _FINAL_NORM_NAMES:
                norm = getattr(module, name, None)
                if isinstance(norm, nn.Module):
                    return norm
    return None


def out_features(projection: nn.Module) -> int:
    """Rows of a projection: `nn.Linear` stores [out, in], GPT-2's `Conv1D` [in, out]."""
    rows = getattr(projection, "out_features", None) or getattr(projection, "nf", None)
    return int(rows if rows is not None else projection.get_parameter("weight").shape[0])


def uses_attention_interface(model: PreTrainedModel) -> bool:
    """Whether the modelling code routes attention through transformers' `AttentionInterface`.

    transformers itself only logs a warning when an implementation is set on a model that ignores
    it, so the source of the attention class is what decides.
    """
    modules = [attention_module(layer) for layer in decoder_layers(model)]
    homes = {type(module).__module__ for module in modules if module is not None}
    return all(hasattr(sys.modules[home], "ALL_ATTENTION_FUNCTIONS") for home in homes)


def uses_rotary_positions(model: PreTrainedModel) -> bool:
    """Whether queries and keys are rotated by position before they meet."""
    return any("Rotary" in type(module).__name__ for module in model.modules())
