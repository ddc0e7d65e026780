"""Padding on either side: ids, masks, positions, and the token that fills a row up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from families import tiny

import interp
from interp.data.padding import Side, pad_id, pad_ids, padded
from interp.data.rows import Row


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("right", [[5, 6, 7], [8, 9, 9]], [[1, 1, 1], [1, 0, 0]]),
        ("left", [[5, 6, 7], [9, 9, 8]], [[1, 1, 1], [0, 0, 1]]),
    ],
)
def test_sequences_are_filled_up_on_a_side(side: Side, ids: Any, mask: Any) -> None:
    found = pad_ids([[5, 6, 7], [8]], 9, side)
    assert [tensor.tolist() for tensor in found] == [ids, mask]


def test_positions_count_from_the_first_token_of_a_row() -> None:
    checkpoint = interp.load(tiny("llama"))
    rows = [Row(0, (5, 6, 7), ""), Row(1, (8,), "")]
    left = padded(rows, checkpoint, "left")
    assert left["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert left["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (None, 0),
        (SimpleNamespace(pad_token_id=5), 5),
        (SimpleNamespace(pad_token_id=None), 0),
        (SimpleNamespace(pad_token_id=97), 0),
    ],
)
def test_what_a_row_is_filled_up_with(tokenizer: Any, expected: int) -> None:
    """The model has 97 rows of embedding; what it does not know cannot fill a row up."""
    assert pad_id(replace(interp.load(tiny("llama")), tokenizer=tokenizer)) == expected
