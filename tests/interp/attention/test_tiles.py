"""The sweep over tiles, at every way of cutting, against all scores at once in float64."""

import math

import pytest
import torch

from interp.attention import tiles
from interp.attention.flash import explicit
from interp.attention.tiles import Scores, sweep

LENGTH = 45


def make(mask: str = "none", window: int | None = None) -> Scores:
    query, key = torch.randn(3, 4, LENGTH, 8) * 2, torch.randn(3, 2, LENGTH, 8)
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    if window is not None:
        seen &= torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1 - window)
    seen = seen[None, None]
    if mask == "rows":
        first = torch.tensor([0, 9, 20])[:, None, None, None]
        seen = seen & (torch.arange(LENGTH) >= first)
    _, lse = explicit(query, key, torch.zeros(3, 2, LENGTH, 8), seen, 0.4)
    lse = lse.masked_fill(lse.isneginf(), 0.0)
    weight = torch.rand(3, 4, LENGTH)
    return Scores(query, key, lse, weight, 0.4, None if mask == "none" else seen, window)


def dense(scores: Scores) -> dict[str, torch.Tensor]:
    key = scores.key.double().repeat_interleave(2, 1)
    logs = scores.query.double() @ key.mT * scores.scale
    seen = scores.mask
    if seen is None:
        seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        if scores.window is not None:
            seen &= torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1 - scores.window)
    logs = logs.masked_fill(~seen, -math.inf)
    p = torch.exp(logs - scores.lse.double()[..., None])
    counted = p * scores.weight[..., None]
    return {
        "entropy": -torch.special.xlogy(p, p).sum(-1),
        "square": p.square().sum(-1),
        "column": counted.sum(2),
        "column_log": torch.special.xlogy(counted, counted).sum(2),
    }


@pytest.mark.parametrize("tile", [1, 700, 2**19])
@pytest.mark.parametrize(("rows", "keys"), [(128, 4096), (16, 16), (8, 32), (45, 45), (1, 1)])
@pytest.mark.parametrize(
    ("mask", "window"), [("none", None), ("none", 7), ("none", 30), ("one", None), ("rows", None)]
)
def test_every_way_of_cutting(
    monkeypatch: pytest.MonkeyPatch, mask: str, window: int | None, rows: int, keys: int, tile: int
) -> None:
    monkeypatch.setattr(tiles, "TILE", tile)
    scores = make(mask, window)
    got = sweep(
        scores, entropy=True, square=True, column=True, column_log=True, rows=rows, keys=keys
    )
    for name, wanted in dense(scores).items():
        assert (getattr(got, name) - wanted).abs().max() < 1e-5, name


@pytest.mark.parametrize("name", ["entropy", "square", "column", "column_log"])
def test_a_sum_asked_for_alone(name: str) -> None:
    scores = make()
    got = sweep(scores, **{name: True})
    assert (getattr(got, name) - dense(scores)[name]).abs().max() < 1e-5
    others = {"entropy", "square", "column", "column_log"} - {name}
    assert all(getattr(got, other) is None for other in others)


def test_columns_without_mass_have_no_entropy() -> None:
    scores = make("rows")
    got = sweep(scores, column=True, column_log=True)
    entropy = got.column_entropy()
    unseen = torch.arange(LENGTH) < 20
    assert (entropy[2][:, unseen] == 0).all() and (got.column[2][:, unseen] == 0).all()
    shares = dense(scores)
    wanted = shares["column"].log() - shares["column_log"] / shares["column"]
    assert (entropy[0] - wanted[0]).abs().max() < 1e-5


def test_memory_is_a_tile_not_a_matrix() -> None:
    """The largest tensor of a sweep over 2,048 tokens, seen by the dispatcher."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    length = 2048
    query, key = torch.randn(1, 4, length, 8), torch.randn(1, 4, length, 8)
    lse, weight = torch.zeros(1, 4, length), torch.ones(1, 4, length)
    with Watch():
        sweep(Scores(query, key, lse, weight, 0.1, None, None), column=True, entropy=True)
    assert 0 < largest <= tiles.TILE < length * length
