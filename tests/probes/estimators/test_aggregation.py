"""Aggregators: what they are by definition, and the streaming form beside the whole one."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.errors import InputError
from probes.estimators.aggregation import (
    AGGREGATORS,
    Aggregator,
    Attention,
    Ema,
    Last,
    Max,
    Mean,
    MultiMax,
    RollingMean,
    SoftmaxWeighted,
    aggregator,
    window_means,
)

EVERY = [
    Mean(),
    Last(),
    Max(),
    Ema(0.3),
    RollingMean(4),
    SoftmaxWeighted(0.5),
    Attention(),
    Attention(3),
    MultiMax(2),
]
each = pytest.mark.parametrize("how", EVERY, ids=lambda how: str(how.settings()))


def random(how: Aggregator, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = (*shape, how.channels) if how.channels else shape
    return torch.randn(wide, generator=generator, dtype=torch.float64)


def weighted(queries: list[float], values: list[float]) -> float:
    top = max(queries)
    weights = [math.exp(q - top) for q in queries]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def ema(scores: list[float], alpha: float) -> float:
    averages = scores[:1]
    for score in scores[1:]:
        averages.append(alpha * score + (1 - alpha) * averages[-1])
    return max(averages)


def rolling(scores: list[float], window: int) -> float:
    size = min(window, len(scores))
    return max(sum(scores[i : i + size]) / size for i in range(len(scores) - size + 1))


SLOW: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda s: sum(s) / len(s),
    "last": lambda s: s[-1],
    "max": max,
    "ema": lambda s: ema(s, 0.3),
    "rolling-mean": lambda s: rolling(s, 4),
    "softmax": lambda s: weighted([x / 0.5 for x in s], s),
}


@pytest.mark.parametrize("how", EVERY[:6], ids=lambda how: how.name)
@pytest.mark.parametrize("length", [1, 3, 4, 17])
def test_one_score_a_token_by_definition(how: Aggregator, length: int) -> None:
    scores = random(how, 5, length)
    found = how.aggregate(scores, torch.ones(5, length, dtype=torch.bool))
    assert found.tolist() == pytest.approx([SLOW[how.name](row) for row in scores.tolist()])


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_by_definition(heads: int) -> None:
    mask = torch.ones(4, 9, dtype=torch.bool)
    scores = random(Attention(heads), 4, 9)
    by_head = [
        [weighted(row[:, h].tolist(), row[:, heads + h].tolist()) for h in range(heads)]
        for row in scores
    ]
    found = Attention(heads).aggregate(scores, mask)
    assert found.tolist() == pytest.approx([sum(row) for row in by_head])
    several = random(MultiMax(heads), 4, 9, seed=1)
    assert MultiMax(heads).aggregate(several, mask).tolist() == pytest.approx(
        several.numpy().max(1).sum(1).tolist()
    )


@each
def test_streaming_equals_the_whole_at_every_prefix(how: Aggregator) -> None:
    scores = random(how, 3, 40)
    state = how.start(3)
    assert bool(how.value(state).isnan().all())
    for position in range(40):
        state = how.update(state, scores[:, position])
        mask = torch.ones(3, position + 1, dtype=torch.bool)
        whole = how.aggregate(scores[:, : position + 1], mask)
        torch.testing.assert_close(how.value(state), whole, rtol=1e-10, atol=1e-12)


@each
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_on_either_side_changes_nothing(how: Aggregator, side: str) -> None:
    lengths = [1, 4, 6, 9]
    scores = random(how, 4, 12)
    mask = torch.zeros(4, 12, dtype=torch.bool)
    for row, length in enumerate(lengths):
        begin = {"left": 12 - length, "right": 0, "both": 2}[side]
        mask[row, begin : begin + length] = True
    scores[~mask] = 1e6
    found = how.aggregate(scores, mask)
    state = how.start(4)
    for position in range(12):
        state = how.update(state, scores[:, position], mask[:, position])
    torch.testing.assert_close(how.value(state), found)
    for row in range(4):
        alone = scores[row][mask[row]][None]
        bare = how.aggregate(alone, torch.ones(alone.shape[:2], dtype=torch.bool))
        torch.testing.assert_close(found[row], bare[0])


@each
def test_a_state_does_not_grow(how: Aggregator) -> None:
    state = how.start(2)
    before = [tensor.shape for tensor in state]
    for position in range(50):
        state = how.update(state, random(how, 2, seed=position))
    assert [tensor.shape for tensor in state] == before


@each
def test_long_rows_of_large_scores_stay_finite(how: Aggregator) -> None:
    scores = random(how, 1, 3000) * 100 + torch.linspace(0, 1e5, 3000)[None].reshape(
        1, 3000, *(1,) * bool(how.channels)
    )
    whole = how.aggregate(scores.float(), torch.ones(1, 3000, dtype=torch.bool))
    state = how.start(1)
    for position in range(3000):
        state = how.update(state, scores[:, position].float())
    assert bool(torch.isfinite(whole).all())
    torch.testing.assert_close(how.value(state).float(), whole, rtol=1e-5, atol=1e-3)


@each
def test_rows_are_independent_of_their_order(how: Aggregator) -> None:
    scores, order = random(how, 6, 8), torch.tensor([3, 1, 5, 0, 4, 2])
    mask = torch.arange(8) < torch.tensor([8, 1, 3, 5, 8, 2])[:, None]
    found = how.aggregate(scores, mask)
    torch.testing.assert_close(how.aggregate(scores[order], mask[order]), found[order])


@each
def test_gradients_reach_tokens_and_no_padding(how: Aggregator) -> None:
    scores = random(how, 2, 6).requires_grad_()
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    how.relaxed(scores, mask).sum().backward()
    assert scores.grad is not None and bool(torch.isfinite(scores.grad).all())
    assert bool((scores.grad[~mask] == 0).all()) and bool((scores.grad[mask] != 0).any())


def test_a_small_temperature_comes_near_the_maximum() -> None:
    scores, mask = random(Max(), 5, 20), torch.ones(5, 20, dtype=torch.bool)
    torch.testing.assert_close(
        SoftmaxWeighted(1e-3).aggregate(scores, mask), Max().aggregate(scores, mask)
    )
    torch.testing.assert_close(
        SoftmaxWeighted(1e6).aggregate(scores, mask),
        Mean().aggregate(scores, mask),
        rtol=1e-4,
        atol=1e-5,
    )


def test_windows_hold_whole_windows_only() -> None:
    scores = torch.arange(12.0).reshape(2, 6)
    mask = torch.arange(6) < torch.tensor([5, 2])[:, None]
    means, valid = window_means(scores, mask, 3)
    assert valid.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert means[valid].tolist() == pytest.approx([1.0, 2.0, 3.0, 6.5])


@pytest.mark.parametrize("name", list(AGGREGATORS))
def test_settings_make_the_same_again(name: str) -> None:
    how = aggregator(name)
    assert aggregator(**how.settings()) == how
    assert np.all([isinstance(value, (str, int, float)) for value in how.settings().values()])


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"no aggregation 'median'; there are mean, last, max"):
        aggregator("median")
    with pytest.raises(InputError, match="mean does not take alpha"):
        aggregator("mean", alpha=0.5)
    for wrong in ({"name": "ema", "alpha": 0.0}, {"name": "softmax", "temperature": -1.0}):
        with pytest.raises(InputError, match="above 0"):
            aggregator(**wrong)
    with pytest.raises(InputError, match="window is 0"):
        RollingMean(0)
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(InputError, match=r"attention takes \(2,\) scores a token; got \(3,\)"):
        Attention().aggregate(torch.zeros(2, 3, 3), mask)
    with pytest.raises(InputError, match=r"mean takes \(\) scores a token"):
        Mean().update(Mean().start(2), torch.zeros(2, 1))
    mask[1] = False
    with pytest.raises(InputError, match="row 1 has no token"):
        Mean().aggregate(torch.zeros(2, 3), mask)
