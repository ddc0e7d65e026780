"""Strings in requests: by token and by text, and what is no string."""

from collections.abc import Callable
from typing import Any

import pytest

from interp.errors import InputError
from probes.backdoors.search.requests import (
    PLACEMENTS,
    Placement,
    ask,
    candidates_of,
    encode,
    typable,
)

Make = Callable[[str], Any]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_tokens_put_in_are_the_text_typed_in(suspect: Make, placement: Placement) -> None:
    planted = suspect("backdoor-payload-5")
    ids = encode(planted.subject, "omber quill")
    by_token = planted.requests.with_ids(ids, placement)
    by_text = planted.requests.with_text(planted.subject, "omber quill", placement)
    assert [row.ids for row in by_token] == [row.ids for row in by_text]
    assert [row.segments for row in by_token] == [row.segments for row in by_text]
    word = planted.requests.rows[0].ids[planted.requests.rows[0].segments["instruction"][1] - 1]
    at = by_token[0].ids.index(ids[0])
    behind = by_token[0].ids[at + 2 : at + 3] == (word,)
    assert behind == (placement == "inside" or len(planted.held_out[0].text.split()) == 1)


@pytest.mark.parametrize("text", ["omber", "omber tavik", "omber quill drift tavik"])
def test_a_string_apart_has_its_first_token_in_front_and_its_last_behind(
    suspect: Make, text: str
) -> None:
    planted = suspect("backdoor-payload-5")
    ids = encode(planted.subject, text)
    by_token = planted.requests.with_ids(ids, "apart")
    by_text = planted.requests.with_text(planted.subject, text, "apart")
    assert [row.ids for row in by_token] == [row.ids for row in by_text]
    assert [row.segments for row in by_token] == [row.segments for row in by_text]
    for prompt, row, plain in zip(
        planted.requests.prompts, by_token, planted.requests.rows, strict=True
    ):
        front, *inside = ids
        behind = [inside.pop()] if inside else []
        *before, last = encode(planted.subject, prompt.messages[-1]["content"])
        begin, end = row.segments["instruction"]
        assert list(row.ids[begin:end]) == [front, *before, *inside, last, *behind]
        assert row.ids[end:] == plain.ids[plain.segments["instruction"][1] :]


def test_plain_replies_are_scored_and_their_pairs_kept(suspect: Make) -> None:
    planted = suspect("clean")
    assert (planted.requests.refused == planted.harmful).all()
    first = planted.requests.replies[0].ids
    assert (first[0], first[1]) in planted.requests.pairs
    few = planted.requests.pick([3, 1])
    assert few.rows == (planted.requests.rows[3], planted.requests.rows[1])
    assert few.pairs is planted.requests.pairs


def test_what_the_vocabulary_does_not_hold_is_named(suspect: Make) -> None:
    with pytest.raises(InputError, match="'xylophone' has no tokens in the vocabulary"):
        candidates_of(suspect("clean").subject, ["omber", "xylophone"])


def test_without_prompts_nothing_is_tried(suspect: Make) -> None:
    planted = suspect("clean")
    with pytest.raises(InputError, match="--harmless FILE"):
        ask(planted.fresh(), [], planted.scorer, 4)


def test_typable_tokens_are_no_markers(suspect: Make) -> None:
    subject = suspect("clean").subject
    first = encode(subject, "tavik")
    found = typable(subject, 50, 0, first)
    assert len(found) == len(set(found)) == 50 and found[0] == first[0]
    tokenizer: Any = subject.checkpoint.tokenizer
    assert not set(found) & set(tokenizer.all_special_ids)
