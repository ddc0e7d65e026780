"""Tiny checkpoints that read words: a word-level tokenizer over the tiny models' vocabulary."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from families import VOCAB, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from interp.checkpoint import Checkpoint
from interp.resolve import load

UNKNOWN = 3


def tokenizer(bos: bool = True) -> Any:
    """`<pad> <bos> <eos> <unk> w4 … w96`; puts `<bos>` in front by itself if `bos`."""
    names = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, VOCAB))]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    if bos:
        special["bos_token"] = "<bos>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def documents(
    count: int, length: int, seed: int = 0, words: Sequence[int] = range(4, VOCAB)
) -> list[str]:
    """Random words; `length` of them in each document."""
    draw = random.Random(seed)
    return [" ".join(f"w{i}" for i in draw.choices(words, k=length)) for _ in range(count)]


def wordy(family: str, bos: bool = True) -> Checkpoint:
    """A tiny model of `family` that reads words."""
    return load(tiny(family), tokenizer=tokenizer(bos))


def save(model: Any, folder: Path, bos: bool = True) -> Path:
    """Write a model and the tokenizer as transformers would."""
    model.save_pretrained(folder)
    tokenizer(bos).save_pretrained(folder)
    return folder
