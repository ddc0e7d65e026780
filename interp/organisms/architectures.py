"""The stock transformers architectures that organisms are built on, small enough for a CPU."""

from dataclasses import dataclass
from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn

Family = Literal["llama", "qwen3_5_text", "lfm3"]

_FROZEN_LOGIT = 30.0  # its sigmoid is exactly 1 in float32


@dataclass(frozen=True)
class Architecture:
    """A small decoder and the ids that it needs to know.

    Attributes:
        family: transformers' model type. llama has no gate, qwen3_5_text (every layer full
            attention) a gate per element and query-key norms, lfm3 a gate per head and the same.
        vocabulary: number of token ids.
        layers: decoder layers.
        width: of the residual stream.
        heads: query heads, each with its own key and value head.
        head_width: of one head.
        mlp: width of the hidden layer of every MLP.
        context: most tokens that a sequence may have.
        bos: id of the first token of a sequence.
        pad: id of the padding token.
        eos: id that ends a generation, if there is one.
        bias: biases in the attention projections.
        frozen_gate: hold the element gate open, so that it is exactly 1 everywhere.
    """

    family: Family
    vocabulary: int
    layers: int
    width: int
    heads: int
    head_width: int
    mlp: int
    context: int
    bos: int
    pad: int
    eos: int | None = None
    bias: bool = False
    frozen_gate: bool = False

    def config(self) -> Any:
        """The transformers configuration."""
        shared = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.head_width,
            "intermediate_size": self.mlp,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": False,
            "attention_bias": self.bias,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "pad_token_id": self.pad,
        }
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        full = ["full_attention"] * self.layers
        match self.family:
            case "llama":
                from transformers import LlamaConfig

                return LlamaConfig(**shared, rope_parameters=rope)
            case "qwen3_5_text":
                from transformers import Qwen3_5TextConfig

                rope = {**rope, "partial_rotary_factor": 1.0}
                return Qwen3_5TextConfig(**shared, rope_parameters=rope, layer_types=full)
            case "lfm3":
                from transformers import Lfm3Config

                return Lfm3Config(
                    **shared,
                    rope_parameters={"full_attention": rope},
                    layer_types=full,
                    use_sandwich_norm=False,
                    use_attention_gate=True,
                )
            case _:
                assert_never(self.family)

    def parameters(self) -> int:
        """Number of parameters; no weight is allocated."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config())
        return sum(parameter.numel() for parameter in model.parameters())

    def build(self, seed: int, attention: str = "eager") -> Any:
        """A freshly initialised model; the same seed gives the same weights.

        Args:
            seed: of the initialisation; torch's global generator is left as it was.
            attention: transformers' attention implementation.
        """
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(
                self.config(), attn_implementation=attention, dtype=torch.float32
            )
        if self.frozen_gate:
            open_gates(model)
        return model


def open_gates(model: nn.Module) -> None:
    """Set every element gate of a qwen3_5_text model to exactly 1, in place.

    `q_proj` is packed per head as [query | gate]. The gate's weights become 0 and its bias 30,
    where the sigmoid rounds to 1 in float32; its gradient is then exactly 0 as well. All other
    biases of the attention become 0, so that the function is that of the model without biases.
    (Trained biases would take over the sink's work in part: attention on BOS then fell to .2 to .7
    on some seeds.)
    """
    for layer in decoder_layers(model):
        attention: Any = layer.self_attn
        size = attention.head_dim
        with torch.no_grad():
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(attention, name).bias.zero_()
            projection = attention.q_proj
            projection.weight.view(-1, 2, size, projection.in_features)[:, 1] = 0.0
            projection.bias.view(-1, 2, size)[:, 1] = _FROZEN_LOGIT


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of any of the three families."""
    return model.model.layers


def gate_scores(attention: Any, hidden: Tensor, projected_query: Tensor) -> Tensor | None:
    """Gate of every head at every position, (batch, length, heads, head_dim or 1), or None.

    Args:
        attention: the attention module.
        hidden: what the module was given, (batch, length, width).
        projected_query: what its `q_proj` returned.
    """
    family: Family = attention.config.model_type
    match family:
        case "llama":
            return None
        case "qwen3_5_text":
            packed = projected_query.unflatten(-1, (-1, 2, attention.head_dim))
            return torch.sigmoid(packed[..., 1, :])
        case "lfm3":
            return torch.sigmoid(attention.g_proj(hidden))[..., None]
        case _:
            assert_never(family)
