"""Attention statistics against explicit weights in float64, and against answers known on paper."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.attention.flash import WINDOW_BLOCK
from interp.attention.kernels import (
    AttentionInputs,
    AttentionStatistics,
    Demand,
    attend,
    blocked,
    by_recipes,
    by_tiles,
)

EVERYTHING = Demand(True, True, True, True, True, True)
NAMES = ("lse", "chosen", "column", "column_entropy", "entropy", "square", "learned_sink")


def make(
    length: int = 40,
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 16,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
) -> AttentionInputs:
    query = torch.randn(batch, heads, length, dim).to(dtype)
    key = torch.randn(batch, kv_heads, length, dim).to(dtype)
    value = torch.randn(batch, kv_heads, length, dim).to(dtype)
    return AttentionInputs(
        query,
        key,
        value,
        scale=2 * dim**-0.5,
        real=torch.ones(batch, length, dtype=torch.bool),
        keys=torch.tensor([[0, 3, length - 1]] * batch),
    )


def padded(inputs: AttentionInputs, side: str, amount: int = 7) -> AttentionInputs:
    """Row 0 padded on one side, row 1 whole, with the mask that transformers would hand over."""
    length = inputs.query.shape[2]
    real = inputs.real.clone()
    real[0, slice(0, amount) if side == "left" else slice(length - amount, length)] = False
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    if inputs.window is not None:
        causal &= torch.ones(length, length, dtype=torch.bool).triu(1 - inputs.window)
    first = real.int().argmax(1)
    keys = torch.stack([first, first + 3, first + 6], 1)
    mask = (causal[None] & real[:, None, :])[:, None]
    return replace(inputs, real=real, mask=mask, window=None, keys=keys)


def dense(inputs: AttentionInputs) -> dict[str, Tensor]:
    """Every statistic and the output from the full matrix of weights, in float64."""
    groups = inputs.query.shape[1] // inputs.key.shape[1]
    key = inputs.key.double().repeat_interleave(groups, 1)
    value = inputs.value.double().repeat_interleave(groups, 1)
    length = key.shape[2]
    scores = inputs.query.double() @ key.transpose(2, 3) * inputs.scale
    if inputs.softcap is not None:
        scores = torch.tanh(scores / inputs.softcap) * inputs.softcap
    seen = inputs.mask
    if seen is None:
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if inputs.window is not None:
            seen = seen & torch.ones(length, length, dtype=torch.bool).triu(1 - inputs.window)
    scores = scores.masked_fill(~seen, -math.inf)
    lse = torch.logsumexp(scores, -1)
    total = lse
    if inputs.sinks is not None:
        total = torch.logaddexp(lse, inputs.sinks.double()[:, None])
    counts = (inputs.real[:, None, :] & ~lse.isneginf())[..., None]
    over_tokens = torch.exp(scores - lse[..., None]).where(counts, 0.0)
    weights = torch.exp(scores - total[..., None]).nan_to_num(0.0)
    counted = weights.where(counts, 0.0)
    column = counted.sum(2)
    shares = counted / column.clamp_min(1e-300)[:, :, None]
    result = {
        "output": weights @ value,
        "lse": lse.where(counts[..., 0], 0.0),
        "column": column,
        "column_entropy": -torch.special.xlogy(shares, shares).sum(2),
        "entropy": -torch.special.xlogy(over_tokens, over_tokens).sum(3),
        "square": over_tokens.square().sum(3),
        "learned_sink": (1 - counted.sum(3)).where(counts[..., 0], 0.0),
    }
    if inputs.keys is not None:
        index = inputs.keys[:, None, None, :].expand(-1, *counted.shape[1:3], -1)
        result["chosen"] = counted.gather(3, index)
    return result


def worst(got: AttentionStatistics, wanted: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of every statistic that was computed."""
    differences = {}
    for name in NAMES:
        tensor = getattr(got, name)
        if tensor is not None:
            assert tensor.dtype == torch.float32
            differences[name] = (tensor.double() - wanted[name]).abs().max().item()
    return differences


def check(inputs: AttentionInputs, output: Tensor, got: AttentionStatistics | None) -> None:
    assert got is not None
    wanted = dense(inputs)
    real = inputs.real[:, None, :, None]
    assert ((output - wanted["output"]) * real).abs().max() < 1e-5
    differences = worst(got, wanted)
    present = {"lse", "column", "column_entropy", "entropy", "square"}
    present |= {"chosen"} if inputs.keys is not None else set()
    present |= {"learned_sink"} if inputs.sinks is not None else set()
    assert set(differences) == present
    column_scale = max(1.0, wanted["column"].max().item())
    for name, difference in differences.items():
        assert difference < 1e-5 * (column_scale if name == "column" else 1), (name, difference)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("sinks", [False, True])
def test_recipes_and_blocks_equal_explicit_weights(
    padding: str, kv_heads: int, window: int | None, sinks: bool
) -> None:
    inputs = replace(make(kv_heads=kv_heads), window=window)
    if sinks:
        inputs = replace(inputs, sinks=torch.randn(4))
    if padding != "none":
        inputs = padded(inputs, padding)
    output, statistics = attend(inputs, EVERYTHING)
    check(inputs, output, statistics)
    assert statistics is not None
    check(inputs, output, by_recipes(inputs, statistics.lse, EVERYTHING))
    check(inputs, *blocked(inputs, EVERYTHING, block=16))


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_where_no_recipe_applies_the_scores_are_recomputed_in_blocks(padding: str) -> None:
    capped = replace(make(length=150), softcap=2.0)
    wide = replace(make(length=150), value=torch.randn(2, 2, 150, 24))
    for inputs in (capped, wide):
        if padding != "none":
            inputs = padded(inputs, padding)
        assert not inputs.flash_applies
        check(inputs, *attend(inputs, EVERYTHING))


@pytest.mark.parametrize("dim", [6, 7, 8, 13, 64])
def test_every_head_size(dim: int) -> None:
    inputs = make(dim=dim)
    check(inputs, *attend(inputs, EVERYTHING))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_shortest_sequences(length: int) -> None:
    inputs = replace(make(length=length), keys=torch.tensor([[0], [length - 1]]))
    check(inputs, *attend(inputs, EVERYTHING))


def test_uniform_attention_has_harmonic_first_column() -> None:
    length = 64
    inputs = replace(make(length=length), query=torch.zeros(2, 4, length, 16))
    _, statistics = attend(inputs, EVERYTHING)
    assert statistics is not None
    harmonic = sum(1 / i for i in range(1, length + 1))
    first = statistics.column[..., 0] / length
    torch.testing.assert_close(first, torch.full_like(first, harmonic / length), atol=1e-6, rtol=0)
    assert (first > 0.3).sum() == 0
    rows = torch.arange(1, length + 1).float()
    torch.testing.assert_close(statistics.entropy[0, 0], rows.log(), atol=1e-5, rtol=0)
    torch.testing.assert_close(statistics.square[0, 0], 1 / rows, atol=1e-6, rtol=0)


def test_all_attention_on_the_first_key() -> None:
    inputs = make(length=64)
    query, key = torch.ones_like(inputs.query), torch.zeros_like(inputs.key)
    key[:, :, 0] = 50.0
    _, statistics = attend(replace(inputs, query=query, key=key), EVERYTHING)
    assert statistics is not None
    torch.testing.assert_close(statistics.column[..., 0], torch.full((2, 4), 64.0))
    assert statistics.column[..., 1:].abs().max() < 1e-6
    assert statistics.entropy.max() < 1e-5
    torch.testing.assert_close(statistics.square, torch.ones(2, 4, 64))


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.5, 8.0])
def test_planted_sink_logit(logit: float) -> None:
    length = 50
    query, key = torch.zeros(1, 1, length, 8), torch.zeros(1, 1, length, 8)
    query[..., 0] = 1.0
    key[:, :, 0, 0] = logit
    inputs = AttentionInputs(
        query,
        key,
        torch.randn(1, 1, length, 8),
        scale=1.0,
        real=torch.ones(1, length, dtype=torch.bool),
        keys=torch.tensor([[0]]),
    )
    _, statistics = attend(inputs, Demand(chosen=True, column=True))
    assert statistics is not None
    wanted = math.exp(logit) / (math.exp(logit) + torch.arange(length).float())
    torch.testing.assert_close(statistics.chosen[0, 0, :, 0], wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(statistics.column[0, 0, 0], wanted.sum(), atol=2e-5, rtol=0)


def test_learned_sink_takes_what_the_rows_lack() -> None:
    inputs = replace(make(), sinks=torch.tensor([-2.0, 0.0, 1.0, 6.0]))
    length = inputs.query.shape[2]
    inputs = replace(inputs, keys=torch.arange(length).expand(2, -1))
    _, statistics = attend(inputs, Demand(chosen=True, learned_sink=True))
    assert statistics is not None
    rows = statistics.chosen.sum(-1)
    torch.testing.assert_close(
        rows, torch.sigmoid(statistics.lse - inputs.sinks[:, None]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(rows + statistics.learned_sink, torch.ones(2, 4, length))


def test_five_ways_to_the_column_mass_agree() -> None:
    """A chosen keys, B blocks, C two flash calls, D gradient of the values, E values one-hot."""
    inputs = replace(make(length=24, kv_heads=4, dim=24), keys=torch.arange(24).expand(2, -1))
    wanted = dense(inputs)["column"].float()
    _, statistics = attend(inputs, Demand(chosen=True, column=True))
    _, in_blocks = blocked(inputs, Demand(column=True), block=5)
    assert statistics is not None and in_blocks is not None
    value = inputs.value.clone().requires_grad_()
    output = torch.nn.functional.scaled_dot_product_attention(
        inputs.query, inputs.key, value, is_causal=True, scale=inputs.scale
    )
    (gradient,) = torch.autograd.grad(output[..., 0].sum(), value)
    indicator = torch.eye(24).expand(2, 4, -1, -1)
    weights, _ = attend(replace(inputs, value=indicator), Demand())
    ways = {
        "A": statistics.chosen.sum(2),
        "B": in_blocks.column,
        "C": statistics.column,
        "D": gradient[..., 0],
        "E": weights.sum(2),
    }
    for name, column in ways.items():
        assert (column - wanted).abs().max() < 1e-5, name


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("way", [by_tiles, by_recipes])
def test_bfloat16(way: Any, padding: str) -> None:
    """The recipe splits its bias in a high and a low part; one of them alone loses 3 %."""
    inputs = make(length=300, dtype=torch.bfloat16)
    if padding == "left":
        inputs = padded(inputs, "left")
    _, first = attend(inputs, Demand(chosen=True))
    assert first is not None
    statistics = way(inputs, first.lse, EVERYTHING)
    wanted = dense(inputs)
    error = (statistics.column.double() - wanted["column"]).abs()
    seen = wanted["column"] > 0
    assert (error / wanted["column"].clamp_min(1e-3))[seen].max() < 1e-3
    for name in ("entropy", "square", "chosen"):
        assert (getattr(statistics, name).double() - wanted[name]).abs().max() < 2e-2, name


def test_a_weight_far_below_the_others_keeps_its_relative_precision() -> None:
    """Mass e^-30 is a sum of exponentials in the log domain: it must not vanish or go negative."""
    inputs = make(length=32, heads=1, kv_heads=1, batch=1)
    query, key = torch.ones_like(inputs.query), inputs.key * 0.01
    key[:, :, 5] = -30.0 / (16 * inputs.scale)
    inputs = replace(inputs, query=query, key=key)
    _, statistics = attend(inputs, Demand(column=True))
    assert statistics is not None
    wanted = dense(inputs)["column"][0, 0, 5].item()
    assert 0 < wanted < 1e-11
    assert abs(statistics.column[0, 0, 5].item() / wanted - 1) < 1e-4


@pytest.mark.parametrize("window", [5, 600, 1500])
def test_blocks_of_a_window_equal_one_masked_call_bit_for_bit(window: int) -> None:
    length = 2 * WINDOW_BLOCK + 77
    inputs = replace(make(length=length, heads=2, kv_heads=1, batch=1), window=window)
    whole = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)[None, None]
    demand = Demand(chosen=True, column=True, entropy=True, square=True)
    blockwise, statistics = attend(inputs, demand)
    output = torch.nn.functional.scaled_dot_product_attention(
        inputs.query,
        inputs.key.repeat_interleave(2, 1),
        inputs.value.repeat_interleave(2, 1),
        attn_mask=whole,
        scale=inputs.scale,
    )
    assert torch.equal(blockwise, output)
    assert statistics is not None
    wanted = dense(inputs)
    for name, difference in worst(statistics, wanted).items():
        assert difference < 1e-5 * max(1.0, wanted[name].max().item()), name


def test_only_what_is_asked_for_is_computed() -> None:
    inputs = make()
    _, nothing = attend(inputs, Demand())
    assert nothing is None
    for name in ("chosen", "column", "column_entropy", "entropy", "square"):
        _, statistics = attend(inputs, Demand(**{name: True}))
        assert statistics is not None
        present = {n for n in NAMES if getattr(statistics, n) is not None}
        assert present == {"lse", name}
    _, statistics = attend(inputs, Demand(learned_sink=True))
    assert statistics is not None and statistics.learned_sink is None


def test_demands_add_up() -> None:
    both = Demand(column=True) | Demand(entropy=True)
    assert both == Demand(column=True, entropy=True)
    assert both and not Demand()
    assert (both | EVERYTHING) == EVERYTHING


def test_chosen_keys_need_positions() -> None:
    inputs = replace(make(), keys=None)
    _, lse = torch.zeros(()), torch.zeros(2, 4, 40)
    with pytest.raises(ValueError, match="no positions"):
        by_recipes(inputs, lse, Demand(chosen=True))


def test_padding_counts_for_nothing() -> None:
    """A padded row has the statistics of the same row alone, whatever stands in the padding."""
    alone = make(length=20, batch=1)
    alone = replace(alone, keys=torch.tensor([[0]]))
    _, wanted = attend(alone, EVERYTHING)
    junk = {n: torch.randn(1, getattr(alone, n).shape[1], 6, 16) * 5 for n in ("query", "key")}
    longer = {
        n: torch.cat([junk[n], getattr(alone, n)], 2) if n in junk else None
        for n in ("query", "key")
    }
    value = torch.cat([torch.randn(1, 2, 6, 16), alone.value], 2)
    real = torch.arange(26)[None] >= 6
    mask = torch.ones(26, 26, dtype=torch.bool).tril()[None, None] & real[:, None, None, :]
    inputs = AttentionInputs(
        longer["query"], longer["key"], value, alone.scale, real, mask, keys=torch.tensor([[6]])
    )
    _, got = attend(inputs, EVERYTHING)
    assert got is not None and wanted is not None
    for name in NAMES[:-1]:
        padded_statistic = getattr(got, name)
        assert padded_statistic[:, :, :6].abs().max() == 0, name
        torch.testing.assert_close(
            padded_statistic[:, :, 6:], getattr(wanted, name), atol=1e-5, rtol=1e-5
        )
