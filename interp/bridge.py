"""The one module that knows TransformerLens; imported only when a bridge is asked for or given."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from interp.checkpoint import Checkpoint


def to_bridge(checkpoint: "Checkpoint") -> Any:
    """Put a `TransformerBridge` around a copy of the checkpoint's model; nothing is fetched.

    Raises:
        UnsupportedModelError: TransformerLens has no adapter for the family.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = copy.deepcopy(checkpoint.model)
    # The bridge reads scores and patterns, which only the eager path computes.
    model.set_attn_implementation("eager")
    try:
        return build_bridge_from_module(
            model,
            type(model).__name__,
            hf_config=copy.deepcopy(model.config),
            tokenizer=_own_tokenizer(checkpoint),
            model_name=checkpoint.name,
        )
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"TransformerLens has no bridge for {checkpoint.anatomy.architecture} ({error})."
        ) from error


def _own_tokenizer(checkpoint: "Checkpoint") -> PreTrainedTokenizerBase | None:
    """A copy of the tokenizer that the bridge takes as it is.

    TransformerLens would load a tokenizer that does not say `add_bos_token` once more, by name and
    with a BOS it may never have had; the name may be no place, and the tokens must not change.
    """
    if checkpoint.tokenizer is None:
        return None
    tokenizer: PreTrainedTokenizerBase = copy.deepcopy(checkpoint.tokenizer)
    tokenizer.init_kwargs = {"name_or_path": "", **tokenizer.init_kwargs, "add_bos_token": True}
    return tokenizer


def unwrap(bridge: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Give the plain Hugging Face model of a bridge, and its tokenizer.

    The bridge has put its own modules in place of the model's, so a fresh model is built from the
    config and the weights are copied over by position.

    Raises:
        InputError: the weights cannot be matched.
    """
    wrapped = bridge.original_model
    with torch.device("meta"):
        model = type(wrapped)(copy.deepcopy(wrapped.config))
    clean = {
        name.replace("._original_component", ""): tensor
        for name, tensor in wrapped.state_dict().items()
    }
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(clean))
    if missing:
        raise InputError(
            f"the bridge's model lacks {len(missing)} weights that {type(wrapped).__name__} needs, "
            f"first {missing[0]}; load the checkpoint itself instead of the bridge."
        )
    model.to_empty(device=bridge.cfg.device)
    model.load_state_dict({name: clean[name] for name in wanted})
    return model.eval(), getattr(bridge, "tokenizer", None)
