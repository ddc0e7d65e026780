"""A tokenizer whose words are an organism's tokens."""

from collections.abc import Sequence
from typing import Any


def word_level_tokenizer(
    tokens: Sequence[str],
    *,
    bos: str,
    pad: str,
    eos: str | None = None,
    markers: Sequence[str] = (),
    chat_template: str | None = None,
) -> Any:
    """A `PreTrainedTokenizerFast` that reads token names separated by white space.

    It opens every text with BOS by itself. A word outside the vocabulary is an error, because an
    organism knows nothing about it.

    Args:
        tokens: the spelling of every id.
        bos: the token that opens a text.
        pad: the padding token.
        eos: the token that ends a generation, if there is one.
        markers: further special tokens, which decoding can leave out.
        chat_template: Jinja source that renders messages, if the organism chats.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(ids))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, ids[bos])]
    )
    special: dict[str, Any] = {"bos_token": bos, "pad_token": pad}
    if eos:
        special["eos_token"] = eos
    if markers:
        special["additional_special_tokens"] = list(markers)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **special
    )
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer
