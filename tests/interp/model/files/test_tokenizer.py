"""Tokenizers: larger than the embedding, with a padding of their own, with marks in front."""

from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES, byte_level, byte_level_model
from families import VOCAB, tiny
from words import documents, save, tokenizer

from interp.capture.prompt_states import prompt_rows
from interp.data.prompt_sets import Prompt
from interp.data.rows import as_texts, text_rows
from interp.data.segments import chat_row, with_chat_template
from interp.errors import InputError
from interp.generation import replies
from interp.resolve import load

USER = {"role": "user", "content": "Tell me how to bake bread"}


def padding(of: Any) -> Any:
    """With a padding token that was added alone, as many scripts of fine-tuning do."""
    of.add_special_tokens({"pad_token": "[PAD]"})
    return of


def test_a_padding_outside_of_the_embedding_is_masked(tmp_path: Path) -> None:
    save(tiny("llama"), tmp_path / "plain")
    tiny("llama").save_pretrained(tmp_path / "padded")
    padding(tokenizer()).save_pretrained(tmp_path / "padded")
    said = []
    for name in ("plain", "padded"):
        checkpoint = with_chat_template(load(tmp_path / name), None)
        prompts = [Prompt(({"role": "user", "content": text},), "a", "b")
                   for text in ("w5 w6 w7 w8", "w9", "w5 w60")]  # fmt: skip
        rows = prompt_rows(checkpoint, prompts)
        said.append([reply.ids for reply in replies(checkpoint, rows, max_new_tokens=6)])
    assert said[0] == said[1]
    pad: Any = load(tmp_path / "padded").tokenizer
    assert pad.pad_token_id == VOCAB


def test_words_beyond_the_embedding_are_named_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ids up to \d+ .* the embedding has 97 rows, 0 to 96"):
        load(tiny("llama"), tokenizer=byte_level(None))
    tiny("llama").save_pretrained(tmp_path)
    byte_level(None).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"ids up to \d+ .* the embedding has 97 rows"):
        load(tmp_path)


def test_an_added_token_in_a_text_is_named() -> None:
    checkpoint = load(tiny("llama"), tokenizer=padding(tokenizer()))
    texts = as_texts("mine", [documents(1, 9)[0], "w5 [PAD] w6 w7"])
    with pytest.raises(InputError, match=r"'\[PAD\]', whose id 97 the embedding .* \(97 rows\)"):
        text_rows(checkpoint, [texts], length=4)
    chat = with_chat_template(checkpoint, None)
    with pytest.raises(InputError, match=r"'\[PAD\]', whose id 97"):
        chat_row(chat, [{"role": "user", "content": "w5 [PAD]"}])


def test_a_byte_order_mark_in_front_of_a_template_is_no_text(tmp_path: Path) -> None:
    plain = byte_level_model(TEMPLATES["qwen2"])
    wanted = chat_row(plain, [USER]).ids
    assert chat_row(with_chat_template(plain, "\ufeff" + TEMPLATES["qwen2"]), [USER]).ids == wanted
    plain.model.save_pretrained(tmp_path)
    byte_level("\ufeff" + TEMPLATES["qwen2"]).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_bytes().startswith(b"\xef\xbb\xbf")
    assert chat_row(load(tmp_path), [USER]).ids == wanted


def test_a_template_that_is_no_text() -> None:
    broken: Any = 3
    with pytest.raises(InputError, match="the chat template is 3, and must be of type str"):
        with_chat_template(byte_level_model(None), broken)


def test_a_template_of_bad_syntax_is_told_with_its_line() -> None:
    with pytest.raises(InputError, match=r"no valid Jinja \(line 2: "):
        chat_row(with_chat_template(byte_level_model(None), "a\n{% for %}"), [USER])
