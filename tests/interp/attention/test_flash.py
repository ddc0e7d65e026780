"""The flash kernels against explicit scores."""

import warnings

import pytest
import torch

from interp.attention import flash as module
from interp.attention.flash import explicit, flash

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def make(dtype: torch.dtype, kv_heads: int = 2, queries: int = 33, keys: int = 33) -> tuple:
    query = torch.randn(2, 4, queries, 16).to(dtype)
    key, value = (torch.randn(2, kv_heads, keys, 16).to(dtype) for _ in range(2))
    return query, key, value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_cpu_kernel_equals_explicit_scores(dtype: torch.dtype, kv_heads: int, masked: bool) -> None:
    query, key, value = make(dtype, kv_heads)
    mask = torch.ones(1, 1, 33, 33, dtype=torch.bool).tril() if masked else None
    output, lse = flash(query, key, value, mask, 0.3)
    wanted, wanted_lse = explicit(query, key, value, mask, 0.3)
    assert output.dtype == dtype and lse.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output, wanted, atol=tolerance, rtol=0)
    # Scores stay float32 in either dtype: far below bfloat16's own step of 4e-3.
    tolerance = 1e-5 if dtype == torch.float32 else 2e-4
    torch.testing.assert_close(lse, wanted_lse, atol=tolerance, rtol=0)


def test_cpu_kernel_is_the_one_behind_sdpa() -> None:
    query, key, value = make(torch.float32, 4)
    output, _ = flash(query, key, value, None, 0.3)
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3
    )
    assert torch.equal(output, plain)


@pytest.mark.parametrize("function", [flash, explicit])
def test_rows_that_see_nothing(function: object) -> None:
    query, key, value = make(torch.float32)
    mask = torch.ones(1, 1, 33, 33, dtype=torch.bool).tril()
    mask[:, :, 5] = False
    assert callable(function)
    output, lse = function(query, key, value, mask, 0.3)
    assert torch.equal(output[:, :, 5], torch.zeros_like(output[:, :, 5]))
    assert output.isfinite().all() and lse[:, :, 6:].isfinite().all()
    assert not lse.isnan().any()


def test_fewer_queries_than_keys() -> None:
    query, key, value = make(torch.float32, queries=5, keys=20)
    mask = torch.ones(1, 1, 5, 20, dtype=torch.bool).tril(15)
    output, lse = flash(query, key, value, mask, 0.3)
    wanted, wanted_lse = explicit(query, key, value, mask, 0.3)
    torch.testing.assert_close(output, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse, wanted_lse, atol=1e-5, rtol=0)


def test_other_devices_take_explicit_scores() -> None:
    """On a device without a kernel of its own nothing is guessed (meta stands in for one)."""
    tensors = [t.to("meta") for t in make(torch.float32)]
    output, lse = flash(*tensors, None, 0.3)
    assert output.device.type == "meta" and lse.shape == (2, 4, 33)


@CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [33, 128, 500])
def test_cuda_kernels_equal_explicit_scores(
    dtype: torch.dtype, masked: bool, length: int
) -> None:  # pragma: no cover
    query, key, value = (t.cuda() for t in make(dtype, 2, length, length))
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="cuda").tril()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, lse = flash(query, key, value, mask if masked else None, 0.3)
    wanted, wanted_lse = explicit(query, key, value, mask, 0.3)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output, wanted, atol=tolerance, rtol=0)
    torch.testing.assert_close(lse, wanted_lse, atol=tolerance, rtol=0)


def test_every_operator_that_we_call_exists() -> None:
    """The schemas that the CUDA path relies on, which a machine without a GPU can still read."""
    wanted = {
        "_scaled_dot_product_flash_attention": ("dropout_p", "is_causal", "return_debug_mask"),
        "_scaled_dot_product_efficient_attention": ("attn_bias", "compute_log_sumexp", "dropout_p"),
        "_scaled_dot_product_flash_attention_for_cpu": ("dropout_p", "is_causal", "attn_mask"),
    }
    for name, arguments in wanted.items():
        schema = getattr(torch.ops.aten, name).default._schema
        assert set(arguments) <= {argument.name for argument in schema.arguments}
        assert schema.returns[1].name in ("logsumexp", "log_sumexp")
    assert module.flash is flash
