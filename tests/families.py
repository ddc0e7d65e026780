"""Tiny models of every supported family, built from configs: nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

VOCAB = 97
LAYERS = 4
WINDOW = 8

COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**COMMON),
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, head_dim=8),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        **COMMON,
        **LINEAR,
        **MOE,
        head_dim=8,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"] * 2,
    ),
    "qwen3_5": lambda: transformers.Qwen3_5TextConfig(
        **COMMON,
        **LINEAR,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"] * 2,
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **COMMON,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        layer_types=SLIDING,
        rope_parameters=ROPE,
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **COMMON, head_dim=8, sliding_window=WINDOW, layer_types=SLIDING, query_pre_attn_scalar=8
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **COMMON, head_dim=8, sliding_window=WINDOW, layer_types=SLIDING, query_pre_attn_scalar=8
    ),
    "mistral": lambda: transformers.MistralConfig(**COMMON, head_dim=8, sliding_window=WINDOW),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **{k: v for k, v in COMMON.items() if k != "num_key_value_heads"}
    ),
    "olmo2": lambda: transformers.Olmo2Config(**COMMON),
    "phi3": lambda: transformers.Phi3Config(**COMMON),
    "afmoe": lambda: transformers.AfmoeConfig(
        **COMMON,
        head_dim=8,
        num_dense_layers=1,
        num_experts=4,
        num_experts_per_tok=2,
        num_shared_experts=1,
        moe_intermediate_size=16,
        sliding_window=WINDOW,
        layer_types=SLIDING,
        rope_parameters=ROPE,
    ),
    "lfm3": lambda: transformers.Lfm3Config(**COMMON),
}
FAMILIES = [name for name in CONFIGS if name != "lfm3"]
REFUSED = ["bloom", "mpt", "gptj"]


def tiny(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """An evaluated model of `family` with random weights that are large enough to matter."""
    config = CONFIGS[family]()
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.25)
            elif name.endswith("sinks"):
                parameter.normal_(0.0, 1.0)
    return model.to(dtype).eval()
