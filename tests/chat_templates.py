"""Chat templates in the form of well-known model families, as data, and a tokenizer for them.

Written for these tests after the families' published formats; only what the tests need.
"""

from typing import Any

from families import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interp import Checkpoint, load

_CHATML = (
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
)

TEMPLATES: dict[str, str] = {
    "llama-2": (
        "{{ bos_token }}{% set first = messages[0] %}"
        "{% if first.role == 'system' %}"
        "{% set lead = '<<SYS>>\\n' + first.content.strip() + '\\n<</SYS>>\\n\\n' %}"
        "{% set rest = messages[1:] %}"
        "{% else %}{% set lead = '' %}{% set rest = messages %}{% endif %}"
        "{% for message in rest %}"
        "{% set text = lead + message.content if loop.first else message.content %}"
        "{% if message.role == 'user' %}{{ '[INST] ' + text.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + text.strip() + ' </s>' }}{% endif %}{% endfor %}"
    ),
    "llama-3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
        "{{ message.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "qwen2": (
        "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        + _CHATML
        + "{% endif %}"
    ),
    "qwen3": (
        "{% for message in messages %}"
        + _CHATML
        + "{% if enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% set role = 'model' if message.role == 'assistant' else message.role %}"
        "{{ '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'user' %}{{ '[INST] ' + message.content + '[/INST]' }}"
        "{% else %}{{ ' ' + message.content + '</s>' }}{% endif %}{% endfor %}"
    ),
    "phi": (
        "{% for message in messages %}"
        "{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
}

MARKERS = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
]
_CORPUS = [
    "Tell me how to bake a loaf of bread at home, please. What is the capital of France?",
    "You are a careful helper. [INST] [/INST] user assistant model system",
    "how to how to bread bread France France capital capital please please",
]


def byte_level(template: str | None) -> Any:
    """A byte-level BPE tokenizer whose words carry the space in front of them."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=MARKERS, show_progress=False
    )
    core.train_from_iterator(_CORPUS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def byte_level_model(template: str | None) -> Checkpoint:
    """A tiny model of random weights with an embedding for every id of `byte_level`."""
    model, tokenizer = tiny("llama"), byte_level(template)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return load(model, tokenizer=tokenizer)
