"""What a head's numbers mean through the weights around it: gate, output slice, score scale."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture.recorder import LayerBatch
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.model.modules import attention_module, find_projections


def gate_scores(batch: LayerBatch) -> Float[Tensor, "batch length heads *dim"]:
    """The gate after its activation.

    Raises:
        InputError: the layer has no gate, or the batch does not hold it.
    """
    gate = batch.checkpoint.anatomy.layers[batch.layer_index].gate
    if gate is None:
        raise InputError(
            f"layer {batch.layer_index} of {batch.checkpoint.name} has no gate; ask for one of "
            f"the gated layers {list(batch.checkpoint.anatomy.gated_layers)}."
        )
    return gate.activated(batch.site("gate"))


def projected_norms(
    batch: LayerBatch, heads: Float[Tensor, "batch length heads dim"]
) -> Float[Tensor, "batch heads length"]:
    """‖W_O^h x‖ for each head and token.

    ‖W x‖² = xᵀ(WᵀW)x, so the heads' Gram matrices spare a tensor of width × heads.
    """
    layer = batch.layer_index
    if ("gram", layer) not in batch.cache:
        batch.cache["gram", layer] = output_grams(batch.checkpoint, layer)
    gram = batch.cache["gram", layer].to(heads.device)
    by_head = heads.transpose(1, 2).double()
    squared = ((by_head @ gram) * by_head).sum(-1)
    return squared.clamp_min(0).sqrt().float()


def output_slices(checkpoint: LoadedModel, layer: int) -> Float[Tensor, "heads width dim"]:
    """W_O^h: each head's slice of the output projection."""
    out = find_projections(checkpoint.layers[layer]).out
    assert out is not None
    weight = out.get_parameter("weight").detach()
    if not isinstance(out, torch.nn.Linear) and hasattr(out, "nf"):
        weight = weight.T  # GPT-2's Conv1D stores [in, out].
    heads = checkpoint.anatomy.layers[layer].heads
    return weight.unflatten(1, (heads, -1)).permute(1, 0, 2)


def output_grams(checkpoint: LoadedModel, layer: int) -> Float[Tensor, "heads dim dim"]:
    """W_O^hᵀ W_O^h in float64."""
    slices = output_slices(checkpoint, layer).double()
    return slices.transpose(1, 2) @ slices


def score_scale(batch: LayerBatch) -> float:
    """What q·k is multiplied with before the softmax."""
    attention = attention_module(batch.checkpoint.layers[batch.layer_index])
    scaling = getattr(attention, "scaling", None)
    dim = batch.checkpoint.anatomy.layers[batch.layer_index].head_dim
    return float(scaling) if scaling is not None else float(dim) ** -0.5
