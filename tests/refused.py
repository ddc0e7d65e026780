"""Tiny models of families that bypass transformers' attention interface."""

from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "bloom": lambda: transformers.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=97, d_model=32, n_layers=2, n_heads=4, max_seq_len=64
    ),
    "gptj": lambda: transformers.GPTJConfig(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64
    ),
}


def bypassing(kind: str) -> Any:
    """An evaluated model of `kind` with random weights."""
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(SIZES[kind]()).eval()
