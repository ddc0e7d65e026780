"""Attention functions lent to transformers: ReLU weights, and a look at the logits."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

RELU = "mechguard_relu"
_WITH_LOGITS = "mechguard_with_logits"

Attend = Callable[..., tuple[Tensor, Tensor]]


@contextlib.contextmanager
def relu_attention() -> Iterator[str]:
    """Lend transformers a ReLU attention; yields the name that models are built with.

    The weight of key j for query i is ReLU(q_i·k_j / √d) / n_i with n_i the number of visible keys,
    at least 1 so that a query that sees nothing (left padding) gives zeros instead of NaN.
    Afterwards the name is unknown to transformers again, as before.

    Source: arXiv 2410.13835, section 3 (BBM/model.py, attn_use_relu).
    """
    with _lent(RELU, _relu):
        yield RELU


@contextlib.contextmanager
def recorded_logits(model: Any) -> Iterator[list[Float[Tensor, "batch heads length length"]]]:
    """Note the attention logits of every layer, in order, during the forward passes inside.

    Args:
        model: on eager attention or on the ReLU attention of this module; it is put back on it.

    Yields:
        A list that grows by the logits q·k/√d of each layer, before the causal mask.
    """
    before = model.config._attn_implementation
    attend: Attend = _relu if before == RELU else eager_attention_forward
    logits: list[Tensor] = []

    def noting(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **more: Any) -> Any:
        repeated = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits.append((query @ repeated.transpose(-1, -2)) * more["scaling"])
        return attend(module, query, key, *rest, **more)

    with _lent(_WITH_LOGITS, noting):
        model.set_attn_implementation(_WITH_LOGITS)
        try:
            yield logits
        finally:
            model.set_attn_implementation(before)


@contextlib.contextmanager
def _lent(name: str, attend: Attend) -> Iterator[None]:
    """Register an attention function with its mask (else padding is ignored), for a while."""
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, eager_mask)
    try:
        yield
    finally:
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)


def _relu(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch kv_heads keys size"],
    value: Float[Tensor, "batch kv_heads keys size"],
    attention_mask: Float[Tensor, "#batch 1 queries keys"],
    scaling: float,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    visible = attention_mask == 0
    scores = torch.relu(query @ key.transpose(-1, -2) * scaling).masked_fill(~visible, 0.0)
    weights = scores / visible.sum(-1, keepdim=True).clamp_min(1)
    return (weights @ value).transpose(1, 2).contiguous(), weights
