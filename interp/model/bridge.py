"""The one module that knows TransformerLens; imported only when a bridge is asked for or given."""

import copy
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from interp.errors import InputError, UnsupportedModelError


def to_bridge(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, name: str) -> Any:
    """Put a `TransformerBridge` around a copy of a model; nothing is fetched.

    Raises:
        UnsupportedModelError: TransformerLens has no adapter for the family.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = copy.deepcopy(model)
    # The bridge reads scores and patterns, which only the eager path computes.
    model.set_attn_implementation("eager")
    try:
        return build_bridge_from_module(
            model,
            type(model).__name__,
            hf_config=copy.deepcopy(model.config),
            tokenizer=_own_tokenizer(tokenizer),
            model_name=name,
        )
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"TransformerLens has no bridge for {type(model).__name__} ({error})."
        ) from error


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
    """A copy of the tokenizer that the bridge takes as it is.

    TransformerLens would load a tokenizer that does not say `add_bos_token` once more, by name and
    with a BOS it may never have had; the name may be no place, and the tokens must not change.
    """
    if tokenizer is None:
        return None
    own: PreTrainedTokenizerBase = copy.deepcopy(tokenizer)
    own.init_kwargs = {"name_or_path": "", **own.init_kwargs, "add_bos_token": True}
    return own


def unwrap(bridge: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Give the plain Hugging Face model of a bridge, and its tokenizer.

    The bridge has put its own modules in place of the model's, so a fresh model is built from the
    config. It shares the weights with the bridge, and takes transformers' own choice of attention
    where the bridge had forced eager.

    Raises:
        InputError: the weights cannot be matched.
    """
    wrapped = bridge.original_model
    config = copy.deepcopy(wrapped.config)
    config._attn_implementation_internal = None
    with no_init_weights():
        model = type(wrapped)(config)
    weights = {_plain_name(name): tensor for name, tensor in wrapped.state_dict().items()}
    wanted = model.state_dict()
    missing = sorted(name for name in wanted if not _fits(weights.get(name), wanted[name]))
    if missing:
        raise InputError(
            f"the bridge's model lacks {len(missing)} weights that {type(wrapped).__name__} needs, "
            f"first {missing[0]}; load the checkpoint itself instead of the bridge."
        )
    model.load_state_dict({name: weights[name] for name in wanted}, assign=True)
    model.tie_weights()
    buffers = {_plain_name(name): tensor for name, tensor in wrapped.named_buffers()}
    for name, buffer in model.named_buffers():
        if name not in wanted and _fits(buffers.get(name), buffer):
            buffer.copy_(buffers[name])
    return model.to(bridge.cfg.device).eval(), getattr(bridge, "tokenizer", None)


def _plain_name(name: str) -> str:
    return name.replace("._original_component", "")


def _fits(tensor: torch.Tensor | None, wanted: torch.Tensor) -> bool:
    return tensor is not None and tensor.shape == wanted.shape
