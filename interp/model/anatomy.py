"""What a checkpoint is made of: layers, heads, gates, sinks, norms.

Read from the config and from the shapes of the modules, so a model on the meta device is enough
and no weight is needed. Whatever the config cannot settle is an error, never a guess.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from interp.errors import UnsupportedModelError
from interp.model.gates import GateLayout, read_gate
from interp.model.modules import (
    attention_module,
    decoder_layers,
    find_projections,
    mid_norm,
    softmax_input_projections,
    text_config,
    uses_attention_interface,
    uses_rotary_positions,
)

AttentionKind = Literal["full", "sliding", "chunked", "linear"]


@dataclass(frozen=True)
class LayerAnatomy:
    """One decoder layer. `heads`, `kv_heads` and `head_dim` are 0 where there is no softmax."""

    attention: AttentionKind
    window: int | None
    heads: int
    kv_heads: int
    head_dim: int
    gate: GateLayout | None
    learned_sink: bool
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Anatomy:
    """The parts of a checkpoint.

    `norm_placement` is `pre`, `post` or `both` (sandwich); `parallel` says that attention and MLP
    read the same input, so that there is no `resid_mid`. `interface` says whether the model code
    calls transformers' `AttentionInterface`, without which attention statistics need
    `attention="eager"`. Without `rotary` positions the queries and keys that the interface hands
    over are the sites `q` and `k` themselves.
    """

    model_type: str
    architecture: str
    width: int
    vocabulary: int
    context: int | None
    parameters: int
    norm_placement: Literal["pre", "post", "both"]
    parallel: bool
    softcap: float | None
    interface: bool
    rotary: bool
    layers: tuple[LayerAnatomy, ...]

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def softmax_layers(self) -> tuple[int, ...]:
        """Indices of the layers with softmax attention, 0-based."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.attention != "linear")

    @property
    def gated_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose attention output is gated."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.gate is not None)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return asdict(self)


# Types of `config.layer_types` whose mask alone says which keys a query sees: the config states no
# plain window for them.
_WITHOUT_WINDOW = {
    "full_attention",
    "attention",
    "hybrid",
    "hybrid_sliding",
    "window_attention",
    "reference_sliding_attention",
    "indexed_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
    "minimax_m3_sparse",
    "moe",
}


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """Describe a model, which may live on the meta device.

    Raises:
        UnsupportedModelError: the decoder layers cannot be found, a layer's attention is of an
            unknown type, or a gate's packing cannot be told from the config.
    """
    config = text_config(model.config)
    layers = decoder_layers(model)
    interface, rotary = uses_attention_interface(model), uses_rotary_positions(model)
    handed_over: tuple[str, ...] = ()
    if interface:
        handed_over = (*(("rot_q", "rot_k") if rotary else ("q", "k")), "v", "z_pre_gate")
    described = tuple(
        _layer(config, layer, index, handed_over) for index, layer in enumerate(layers)
    )
    context = getattr(config, "max_position_embeddings", None) or getattr(
        config, "n_positions", None
    )
    softcap = getattr(config, "attn_logit_softcapping", None)
    return Anatomy(
        model_type=config.model_type,
        architecture=type(model).__name__,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        context=context,
        parameters=sum(p.numel() for p in model.parameters()),
        norm_placement=_norm_placement(layers[0]),
        parallel=_is_parallel(config),
        softcap=softcap,
        interface=interface,
        rotary=rotary,
        layers=described,
    )


def _is_parallel(config: PretrainedConfig) -> bool:
    return bool(
        getattr(config, "use_parallel_residual", False)
        or getattr(config, "parallel_attn", False)
        or config.model_type in {"gptj", "phi", "cohere", "cohere2", "codegen"}
    )


def _norm_placement(layer: nn.Module) -> Literal["pre", "post", "both"]:
    names = {name for name, child in layer.named_children() if not isinstance(child, nn.Identity)}
    if {"pre_feedforward_layernorm", "pre_mlp_layernorm", "post_operator_norm"} & names:
        return "both"
    if "post_feedforward_layernorm" in names and "input_layernorm" not in names:
        return "post"
    return "pre"


def _layer(
    config: PretrainedConfig, layer: nn.Module, index: int, handed_over: tuple[str, ...]
) -> LayerAnatomy:
    attention = attention_module(layer)
    parallel = _is_parallel(config)
    residual = ["resid_pre", "resid_post"]
    if not parallel and mid_norm(layer) is not None:
        residual.append("resid_mid")
    if find_projections(layer).mlp is not None:
        residual.append("mlp_out")
    if attention is None:
        return LayerAnatomy("linear", None, 0, 0, 0, None, False, tuple(residual))
    kind, window = _attention_kind(config, attention, index)
    heads = getattr(attention, "num_heads", None) or config.num_attention_heads
    kv_heads = _kv_heads(config, attention, heads)
    head_dim = _head_dim(config, attention, heads)
    gate = read_gate(config, attention, heads, head_dim)
    sites = [*residual, "attn_out"]
    sites += [*softmax_input_projections(attention), *handed_over]
    if find_projections(layer).out is not None:
        sites.append("z")
    if gate is not None:
        sites.append("gate")
    learned = getattr(attention, "sinks", None) is not None
    return LayerAnatomy(
        kind, window, heads, kv_heads, head_dim, gate, learned, tuple(sorted(set(sites)))
    )


def _attention_kind(
    config: PretrainedConfig, attention: nn.Module, index: int
) -> tuple[AttentionKind, int | None]:
    types = getattr(config, "layer_types", None)
    window = getattr(attention, "sliding_window", None) or getattr(config, "sliding_window", None)
    if types is not None:
        if types[index] == "sliding_attention":
            return "sliding", window
        if types[index] == "chunked_attention":
            return "chunked", getattr(config, "attention_chunk_size", None)
        if types[index] not in _WITHOUT_WINDOW:
            raise UnsupportedModelError(
                f"{config.model_type} declares attention of type {types[index]!r} in layer "
                f"{index}, which is not known here; what its queries see would be a guess."
            )
        return "full", None
    if window is not None and getattr(config, "use_sliding_window", True):
        return "sliding", int(window)
    return "full", None


def _kv_heads(config: PretrainedConfig, attention: nn.Module, heads: int) -> int:
    groups = getattr(attention, "num_key_value_groups", None)
    if groups:
        return int(heads // groups)
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _head_dim(config: PretrainedConfig, attention: nn.Module, heads: int) -> int:
    for source in (attention, config):
        for name in ("head_dim", "head_size"):
            value = getattr(source, name, None)
            if isinstance(value, int):
                return value
    return int(config.hidden_size // heads)
