"""Rows as tensors: padded on either side, with attention mask and position ids."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from interp.data.rows import Row
from interp.model.checkpoint import Checkpoint


def padded(
    rows: Sequence[Row], checkpoint: Checkpoint, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """Ids [batch, length], attention mask and position ids, on the model's device.

    Args:
        rows: at least one.
        checkpoint: whose padding token is used.
        side: where the padding stands. A decoder that generates wants it on the left, so that the
            last column holds the last token of every row.
    """
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id(checkpoint))
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        begin = longest - len(row) if side == "left" else 0
        ids[number, begin : begin + len(row)] = torch.tensor(row.ids)
        mask[number, begin : begin + len(row)] = 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(checkpoint.device) for name, tensor in inputs.items()}


def pad_id(checkpoint: Checkpoint) -> int:
    """The token that fills a row up: the tokenizer's own where the model knows it, else 0.

    What stands there is masked, so any token of the model serves.
    """
    pad = getattr(checkpoint.tokenizer, "pad_token_id", None)
    known = checkpoint.embedding.get_parameter("weight").shape[0]
    return int(pad) if pad is not None and 0 <= pad < known else 0


def ends(checkpoint: Checkpoint) -> list[int]:
    """The tokens that end a turn, as the model's generation config and tokenizer name them."""
    model: Any = checkpoint.model
    named = [
        getattr(model.generation_config, "eos_token_id", None),
        getattr(checkpoint.tokenizer, "eos_token_id", None),
    ]
    flat = [i for one in named for i in (one if isinstance(one, list) else [one])]
    return list(dict.fromkeys(int(i) for i in flat if i is not None))
