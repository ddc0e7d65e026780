"""Pieces of an answer are the answer, whatever the tokenizer, and stop before a stop string."""

import pytest
from chat_templates import byte_level
from serving import asked, checkpoint

from steering.serve.text import Speech


def spoken(tokenizer: object, ids: list[int], *stop: str) -> list[str]:
    speech = Speech(tokenizer, stop)
    pieces = []
    for token in ids:
        pieces.append(speech.add(token))
        if speech.stopped:
            return pieces
    return [*pieces, speech.end()]


def test_pieces_of_words_and_of_characters() -> None:
    tokenizer = checkpoint().tokenizer
    assert tokenizer is not None
    ids = tokenizer(asked()[1].on, add_special_tokens=False)["input_ids"]
    pieces = spoken(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) and sum(map(bool, pieces)) == len(ids)
    letters = byte_level("{{ messages[0].content }}")
    text = "äß 🙂 naïve 中文 done"
    ids = letters(text, add_special_tokens=False)["input_ids"]
    pieces = spoken(letters, ids)
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    # A reply that ends within a character ends as decoding it does.
    cut = ids[:-14]
    assert "".join(spoken(letters, cut)) == letters.decode(cut)


@pytest.mark.parametrize(
    ("stops", "wanted"),
    [
        (("STOP",), "one two ST"),
        (("zzz",), "one two STSTOP three"),
        (("three", "two"), "one "),
        (("e\n",), "one two STSTOP three"),
    ],
)
def test_stop_strings_across_tokens(stops: tuple[str, ...], wanted: str) -> None:
    tokenizer = byte_level("{{ messages[0].content }}")
    ids = tokenizer("one two STSTOP three", add_special_tokens=False)["input_ids"]
    assert "".join(spoken(tokenizer, ids, *stops)) == wanted
