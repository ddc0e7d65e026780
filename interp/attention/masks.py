"""The mask beside our attention: T×T entries only where causality and a window do not do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sdpa_mask


def streamed_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """SDPA's mask, left out where causality and the window say the same without T² entries.

    Padding on the right needs no mask either: it lies in the future of every token.
    """
    square = q_length == kv_length and isinstance(q_offset, int) and q_offset == kv_offset == 0
    if (
        allow_is_causal_skip
        and square
        and _pads_right(attention_mask)
        and _is_window(mask_function, local_size or kv_length, q_length, batch_size)
    ):
        return None
    mask: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **kwargs,
    )
    return mask


def _pads_right(attention_mask: Tensor | None) -> bool:
    """Whether all padding follows the tokens."""
    if attention_mask is None:
        return True
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def _is_window(
    mask_function: Callable[..., Any], window: int, length: int, batch_size: int
) -> bool:
    """Whether a mask function is the plain causal window, tried on a few queries of each row.

    `local_size` is also what chunked attention passes, and documents packed into one row come as a
    mask function too, so the function itself has to be asked.
    """
    if mask_function is causal_mask_function:
        return window >= length
    keys = torch.arange(length)[None]
    rows = torch.arange(batch_size)[:, None]
    zero = torch.zeros((), dtype=torch.long)
    for query in sorted({0, window - 1, window, window + 1, length // 2, length - 1}):
        if query < length:
            seen = mask_function(rows, zero, torch.tensor([[query]]), keys)
            window_of_query = (keys <= query) & (keys > query - window)
            if not bool((seen.expand(batch_size, length) == window_of_query).all()):
                return False
    return True
