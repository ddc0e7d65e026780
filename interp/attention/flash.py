"""Flash attention that also returns the rows' log-sum-exp, on CPU and CUDA.

`torch.nn.functional.scaled_dot_product_attention` computes the log-sum-exp and drops it; the
operators behind it hand it out.
"""

import math
import warnings
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Queries per call where a window bounds the keys.
WINDOW_BLOCK = 1024
# Key tiles of the CPU kernel: blocks that start on one reproduce its rounding exactly.
_KEY_TILE = 512


def flash(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    value: Float[Tensor, "batch kv_heads keys dim"],
    mask: Bool[Tensor, "#batch 1 queries keys"] | None,
    scale: float,
    window: int | None = None,
) -> tuple[Float[Tensor, "batch heads queries dim"], Float[Tensor, "batch heads queries"]]:
    """Attention output and float32 log-sum-exp; causal, within `window`, where `mask` is None.

    Rows that may look nowhere get output 0; what their log-sum-exp says differs between kernels.
    """
    if mask is None and window is not None and window < query.shape[2]:
        return _windowed(query, key, value, window, scale)
    if query.device.type == "cpu":
        return _cpu(query, key, value, mask, scale)
    if query.device.type == "cuda" and _cuda_is_right(query.device.index or 0, query.dtype):
        return _cuda(query, key, value, mask, scale)
    return explicit(query, key, value, mask, scale)


def _windowed(
    query: Tensor, key: Tensor, value: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Causal attention to the last `window` keys, in blocks that only see the keys they need."""
    length = query.shape[2]
    outputs, sums = [], []
    for start in range(0, length, WINDOW_BLOCK):
        stop = min(start + WINDOW_BLOCK, length)
        first = max(0, start - window + 1) // _KEY_TILE * _KEY_TILE
        mask = causal(start, stop, first, stop, window, query.device)
        output, lse = flash(
            query[:, :, start:stop], key[:, :, first:stop], value[:, :, first:stop], mask, scale
        )
        outputs.append(output)
        sums.append(lse)
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def causal(
    start: int, stop: int, first: int, last: int, window: int | None, device: torch.device
) -> Bool[Tensor, "1 1 queries keys"]:
    """Which of the keys [first, last) the queries [start, stop) see."""
    query = torch.arange(start, stop, device=device)[:, None]
    key = torch.arange(first, last, device=device)[None, :]
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    return seen[None, None]


def _cpu(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    # The operator wants equal head counts unless its own GQA flag is set, as SDPA's caller does.
    groups = query.shape[1] // key.shape[1]
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query,
        _expand(key, groups),
        _expand(value, groups),
        0.0,
        mask is None,
        attn_mask=None if mask is None else _additive(mask, query.dtype),
        scale=scale,
    )
    return output, lse


def _cuda(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    key, value = _expand(key, groups), _expand(value, groups)
    if mask is None and query.dtype in (torch.float16, torch.bfloat16):
        output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, True, False, scale=scale
        )
        return output, lse
    bias = None
    if mask is not None:
        # The kernel reads the bias in rows of 16 bytes: allocate a padded one and show its start.
        keys = mask.shape[-1]
        additive = _additive(mask, query.dtype).expand(*query.shape[:3], keys)
        bias = torch.nn.functional.pad(additive, (0, -keys % 8))[..., :keys]
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, mask is None, scale=scale
    )
    return output, lse[..., : query.shape[2]]


@cache
def _cuda_is_right(device: int, dtype: torch.dtype) -> bool:
    """Whether the CUDA kernels agree with explicit scores on a small input, tried once.

    Their log-sum-exp is no public contract, so it is checked before it is trusted.
    """
    generator = torch.Generator(device=f"cuda:{device}").manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, 37, 32, generator=generator, device=f"cuda:{device}").to(dtype)
        for _ in range(3)
    )
    mask = torch.ones(1, 1, 37, 37, dtype=torch.bool, device=query.device).tril()
    wanted_output, wanted = explicit(query, key, value, mask, 0.2)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for given in (None, mask):
        try:
            output, lse = _cuda(query, key, value, given, 0.2)
        except RuntimeError:
            break
        if not (
            torch.allclose(lse.float(), wanted, atol=tolerance)
            and torch.allclose(output.float(), wanted_output.float(), atol=tolerance)
        ):
            break
    else:
        return True
    warnings.warn(
        f"The CUDA attention kernels for {dtype} gave no usable log-sum-exp here; mechguard "
        "computes explicit scores instead, which is slower and holds more memory.",
        stacklevel=2,
    )
    return False


def explicit(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The same from explicit scores: the reference, and the last resort on other devices."""
    groups = query.shape[1] // key.shape[1]
    key, value = _expand(key, groups).float(), _expand(value, groups).float()
    if mask is None:
        shape = (1, 1, query.shape[2], key.shape[2])
        mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    scores = (query.float() @ key.transpose(2, 3) * scale).masked_fill(~mask, -math.inf)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - lse.masked_fill(lse.isneginf(), 0.0)[..., None])
    return (weights @ value).to(query.dtype), lse


def _expand(tensor: Tensor, groups: int) -> Tensor:
    return tensor if groups == 1 else tensor.repeat_interleave(groups, 1)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)
