"""Rows as tensors: padded on either side, with attention mask and position ids."""

from collections.abc import Sequence
from typing import Any, Literal, assert_never

import torch
from torch import Tensor

from interp.data.rows import Row
from interp.model.loaded import LoadedModel

Side = Literal["left", "right"]


def pad_ids(
    sequences: Sequence[Sequence[int]], pad: int, side: Side = "right"
) -> tuple[Tensor, Tensor]:
    """Sequences of integers as one tensor [batch, length], and a mask that is 1 at their own.

    Args:
        sequences: at least one; the longest sets the length.
        pad: fills the others up.
        side: where the padding stands.
    """
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad)
    mask = torch.zeros_like(ids)
    for number, sequence in enumerate(sequences):
        match side:
            case "left":
                begin = longest - len(sequence)
            case "right":
                begin = 0
            case _:
                assert_never(side)
        ids[number, begin : begin + len(sequence)] = torch.tensor(sequence)
        mask[number, begin : begin + len(sequence)] = 1
    return ids, mask


def padded(rows: Sequence[Row], checkpoint: LoadedModel, side: Side = "right") -> dict[str, Tensor]:
    """Ids [batch, length], attention mask and position ids, on the model's device.

    Args:
        rows: at least one.
        checkpoint: whose padding token is used.
        side: where the padding stands. A decoder that generates wants it on the left, so that the
            last column holds the last token of every row.
    """
    ids, mask = pad_ids([row.ids for row in rows], pad_id(checkpoint), side)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(checkpoint.device) for name, tensor in inputs.items()}


def pad_id(checkpoint: LoadedModel) -> int:
    """The token that fills a row up: the tokenizer's own where the model knows it, else 0.

    What stands there is masked, so any token of the model serves.
    """
    pad = getattr(checkpoint.tokenizer, "pad_token_id", None)
    known = checkpoint.embedding.get_parameter("weight").shape[0]
    return int(pad) if pad is not None and 0 <= pad < known else 0


def ends(checkpoint: LoadedModel) -> list[int]:
    """The tokens that end a turn, as the model's generation config and tokenizer name them."""
    model: Any = checkpoint.model
    named = [
        getattr(model.generation_config, "eos_token_id", None),
        getattr(checkpoint.tokenizer, "eos_token_id", None),
    ]
    flat = [i for one in named for i in (one if isinstance(one, list) else [one])]
    return list(dict.fromkeys(int(i) for i in flat if i is not None))
