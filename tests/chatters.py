"""Small chat models with real templates, built from a config: what they say means nothing."""

import torch
import transformers
from chat_templates import TEMPLATES, byte_level

from interp import Checkpoint, load


def chatter(template: str | None = "qwen2", seed: int = 0, *, bias: bool = False) -> Checkpoint:
    """A model of random weights.

    Args:
        template: name of a chat template; None for a base model.
        seed: of the weights.
        bias: give the unembedding one, all 0, that a test may set.
    """
    torch.manual_seed(seed)
    tokenizer = byte_level(None if template is None else TEMPLATES[template])
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    if bias:
        with_bias = torch.nn.Linear(32, len(tokenizer))
        torch.nn.init.zeros_(with_bias.bias)
        model.lm_head = with_bias
    return load(model, tokenizer=tokenizer)
