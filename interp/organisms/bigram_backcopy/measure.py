"""What a Bigram-Backcopy model does, measured the slow and plain way: eager attention and hooks."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import InputError
from interp.organisms.architectures import decoder_layers, gate_scores
from interp.organisms.bigram_backcopy.grammar import Grammar

_EVALUATION_SEED = 990_001  # no training stream is seeded with a single number


@dataclass(frozen=True, eq=False)
class Probe:
    """A fixed batch of the language with everything that is known about it.

    Attributes:
        ids: token ids, (batch, length).
        law: the true law of the next token at each position, (batch, length, v).
        entropy: of that law in nats, (batch, length).
        dormant: queries from length / 6 on where attention has nothing to add, (batch, length).
        active: queries from length / 6 on that are triggers, (batch, length).
    """

    ids: Int[Tensor, "batch length"]
    law: Float[Tensor, "batch length v"]
    entropy: Float[Tensor, "batch length"]
    dormant: Bool[Tensor, "batch length"]
    active: Bool[Tensor, "batch length"]

    @classmethod
    def draw(
        cls, grammar: Grammar, length: int, sequences: int, seed: int = _EVALUATION_SEED
    ) -> "Probe":
        """Sample `sequences` rows; the same arguments give the same rows."""
        ids = grammar.sample(sequences, length, np.random.default_rng(seed))
        late = np.arange(length) >= math.ceil(length / 6)
        return cls(
            ids=torch.from_numpy(ids),
            law=torch.from_numpy(grammar.next_law(ids)).float(),
            entropy=torch.from_numpy(grammar.entropy[ids]).float(),
            dormant=torch.from_numpy(grammar.dormant(ids) & late),
            active=torch.from_numpy(grammar.active(ids) & late),
        )


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """What one decoder layer did on a batch.

    Attributes:
        weights: attention to BOS, (batch, heads, length).
        values: value states, (batch, length, heads, head_dim).
        written: the same through each head's slice of the output projection,
            (batch, length, heads, width).
        gate: (batch, length, heads, head_dim or 1); None where there is no gate.
        residual: norm of the layer's output, (batch, length).
    """

    weights: Float[Tensor, "batch heads length"]
    values: Float[Tensor, "batch length heads size"]
    written: Float[Tensor, "batch length heads width"]
    gate: Float[Tensor, "batch length heads gated"] | None
    residual: Float[Tensor, "batch length"]


@torch.no_grad()
def trace(
    model: Any, ids: Int[Tensor, "batch length"]
) -> tuple[Float[Tensor, "batch length v"], list[LayerTrace]]:
    """Run the model once and return its logits and what each layer did.

    Args:
        model: one of the architectures of this package, on an attention implementation that
            returns its weights (`eager`, or a registered one).
        ids: token ids.

    Raises:
        InputError: the attention implementation returns no weights.
    """
    seen: list[dict[str, Tensor]] = [{} for _ in decoder_layers(model)]
    with contextlib.ExitStack() as stack:
        for layer, slot in zip(decoder_layers(model), seen, strict=True):
            stack.enter_context(_watching(layer, slot))
        output = model(input_ids=ids, use_cache=False, output_attentions=True)
    if not output.attentions or output.attentions[0] is None:
        raise InputError(
            f"attention {model.config._attn_implementation!r} returns no weights; load the model "
            "with attn_implementation='eager'."
        )
    layers = [
        _layer_trace(layer.self_attn, slot, weights[..., 0])
        for layer, slot, weights in zip(decoder_layers(model), seen, output.attentions, strict=True)
    ]
    return output.logits, layers


@contextlib.contextmanager
def _watching(layer: nn.Module, slot: dict[str, Tensor]) -> Iterator[None]:
    attention: Any = layer.self_attn

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            slot[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_input(module: nn.Module, inputs: Any, output: Any) -> None:
        slot["hidden"] = inputs[0]

    handles = [
        attention.q_proj.register_forward_hook(keep("query")),
        attention.q_proj.register_forward_hook(keep_input),
        attention.v_proj.register_forward_hook(keep("value")),
        layer.register_forward_hook(keep("residual")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layer_trace(attention: Any, slot: dict[str, Tensor], weights: Tensor) -> LayerTrace:
    size = attention.head_dim
    values = slot["value"].unflatten(-1, (-1, size))
    slices = attention.o_proj.weight.unflatten(-1, (-1, size))
    return LayerTrace(
        weights=weights,
        values=values,
        written=torch.einsum("whe,blhe->blhw", slices, values),
        gate=gate_scores(attention, slot["hidden"], slot["query"]),
        residual=slot["residual"].norm(dim=-1),
    )


@contextlib.contextmanager
def zeroed_heads(layer: nn.Module) -> Iterator[None]:
    """Set the output of every head of a decoder layer to zero."""
    attention: Any = layer.self_attn
    handle = attention.o_proj.register_forward_pre_hook(
        lambda _, args: (torch.zeros_like(args[0]),)
    )
    try:
        yield
    finally:
        handle.remove()


def risks(logits: Float[Tensor, "batch length v"], probe: Probe) -> dict[str, float]:
    """Cross-entropy of the model against the true law, in nats.

    Returns:
        `backcopy_risk` at triggers (oracle: 0), `bigram_risk` at dormant queries, and
        `bigram_excess`, the latter minus the entropy of the law.

    Source: arXiv 2410.13835 (probe_utils.py), restricted to late queries.
    """
    cross = -(probe.law * logits.log_softmax(-1)).sum(-1)
    return {
        "backcopy_risk": _mean(cross, probe.active),
        "bigram_risk": _mean(cross, probe.dormant),
        "bigram_excess": _mean(cross - probe.entropy, probe.dormant),
    }


def measure(model: Any, grammar: Grammar, length: int, sequences: int = 256) -> dict[str, Any]:
    """Everything that a truth file says about a Bigram-Backcopy model.

    Means are over queries from `length` / 6 on. At the top stand the numbers of the *copying*
    layer, the one whose zeroing harms the copy most; `layers` has them all.

    Args:
        model: in evaluation mode, on an attention implementation that returns weights.
        grammar: the language that it was trained on.
        length: tokens in a sequence, BOS counted.
        sequences: rows that are drawn.

    Returns:
        `backcopy_risk`, `bigram_risk`, `bigram_excess`, the risks with the layer's heads at zero
        (`zeroed_backcopy_risk`, and `zeroed_bigram_change` against the whole model), and of the
        layer `bos_attention` at dormant queries, `bos_attention_active` at triggers, `value_ratio`
        (through the head's output slice) and `raw_value_ratio` of BOS to the median of the others,
        `gate_dormant`, `gate_active` and `gated_sink_mass` (None without a gate), and
        `residual_ratio` of BOS to the mean of the others.
    """
    probe = Probe.draw(grammar, length, sequences)
    logits, traces = trace(model, probe.ids)
    whole = risks(logits, probe)
    layers = []
    for index, (layer, one) in enumerate(zip(decoder_layers(model), traces, strict=True)):
        with zeroed_heads(layer), torch.no_grad():
            without = risks(model(input_ids=probe.ids, use_cache=False).logits, probe)
        layers.append(
            {
                "layer": index,
                **layer_numbers(one, probe),
                "zeroed_backcopy_risk": without["backcopy_risk"],
                "zeroed_bigram_change": without["bigram_risk"] - whole["bigram_risk"],
            }
        )
    copying = max(layers, key=lambda entry: entry["zeroed_backcopy_risk"])
    top = {k: v for k, v in copying.items() if k not in ("layer", "heads")}
    where = {"length": length, "first_query": math.ceil(length / 6), "sequences": sequences}
    return {**whole, "copying_layer": copying["layer"], **top, "queries": where, "layers": layers}


def layer_numbers(one: LayerTrace, probe: Probe) -> dict[str, Any]:
    """The numbers of a layer: means over its heads, and each head under `heads`."""
    heads = []
    for h in range(one.weights.shape[1]):
        numbers: dict[str, Any] = {
            "head": h,
            "bos_attention": _mean(one.weights[:, h], probe.dormant),
            "bos_attention_active": _mean(one.weights[:, h], probe.active),
            "value_ratio": _first_to_median(one.written[:, :, h].norm(dim=-1)),
            "raw_value_ratio": _first_to_median(one.values[:, :, h].norm(dim=-1)),
            "gate_dormant": None,
            "gate_active": None,
            "gated_sink_mass": None,
        }
        if one.gate is not None:
            gate = one.gate[:, :, h].mean(-1)
            numbers["gate_dormant"] = _mean(gate, probe.dormant)
            numbers["gate_active"] = _mean(gate, probe.active)
            numbers["gated_sink_mass"] = _mean(gate * one.weights[:, h], probe.dormant)
        heads.append(numbers)
    overall = {
        key: None if heads[0][key] is None else float(np.mean([head[key] for head in heads]))
        for key in heads[0]
        if key != "head"
    }
    ratio = (one.residual[:, 0] / one.residual[:, 1:].mean(1)).mean()
    return {**overall, "residual_ratio": ratio.item(), "heads": heads}


def _mean(values: Tensor, where: Tensor) -> float:
    return values[where].double().mean().item()


def _first_to_median(norms: Float[Tensor, "batch length"]) -> float:
    return (norms[:, 0] / norms[:, 1:].median(1).values).double().mean().item()
