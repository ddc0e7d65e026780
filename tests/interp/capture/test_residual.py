"""Recorders of the residual stream against float64 loops and planted entries."""

from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from slow_reference import (
    FAMILIES,
    Reference,
    agree,
    checkpoint_of,
    mean,
    norm,
    record,
    rows_of,
    seen,
)

import interp
from interp.capture.recorder import EMBED, FINAL, LayerBatch
from interp.capture.recorders import MassiveActivations, MedianMagnitude, ResidualNorms
from interp.capture.run import capture


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_norms(family: str) -> None:
    reference: Reference = {}
    for row in seen(family):
        for index, hidden in row.hidden.items():
            norms = [norm(token) for token in hidden]
            reference.setdefault(("first", index), []).append(norms[0])
            reference.setdefault(("rest", index), []).append(mean(norms[1:]))
            largest = max(abs(float(x)) for x in hidden.ravel())
            reference.setdefault(("max_abs", index), []).append(largest)
    agree(record(family, ResidualNorms()), reference)


def test_massive_activations_finds_the_planted_entry() -> None:
    """Known answer 8: (layer, position, dim) come back, and only the layers that carry it."""
    model = tiny("llama")
    layer, position, dim = 1, 7, 21

    def plant(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        if output.shape[1] > position:
            output[:, position, dim] = -50_000.0
        return output

    checkpoint = interp.load(model)
    recorder = MassiveActivations()
    with model.model.layers[layer].register_forward_hook(plant):
        capture(checkpoint, rows_of("llama"), [recorder], batch_tokens=60)
    records = recorder.result()
    assert (records.at("count", 0) == 0).all()
    assert records.at("count", layer).tolist() == [0, 1, 1, 1]
    for row in (1, 2, 3):
        assert records.at("value", layer)[row, 0] == -50_000.0
        assert records.at("position", layer)[row, 0] == position
        assert records.at("dim", layer)[row, 0] == dim
    assert (records.at("count", layer + 1)[1:] >= 1).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_massive_activations_agrees_with_a_search(family: str) -> None:
    absolute, ratio, top = 2.0, 3.0, 5
    recorder = MassiveActivations(absolute, ratio, top)
    records = record(family, recorder)
    for number, row in enumerate(seen(family)):
        for layer in range(4):
            entries = [
                (abs(float(x)), position, dim)
                for position, token in enumerate(row.hidden[layer])
                for dim, x in enumerate(token)
            ]
            sizes = sorted(size for size, _, _ in entries)
            median = sizes[(len(sizes) - 1) // 2]
            entries.sort(reverse=True)
            assert records.at("median", layer)[number] == pytest.approx(median, rel=1e-5)
            for place, (size, position, dim) in enumerate(entries[:top]):
                assert records.at("position", layer)[number, place] == position
                assert records.at("dim", layer)[number, place] == dim
                value = row.hidden[layer][position, dim]
                assert abs(value) == size
                assert records.at("value", layer)[number, place] == pytest.approx(value, rel=1e-5)
            count = sum(size > absolute and size >= ratio * median for size in sizes)
            assert records.at("count", layer)[number] == count > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_median_magnitude_is_that_of_torch(family: str) -> None:
    recorder = MedianMagnitude()
    capture(checkpoint_of(family), rows_of(family), [recorder], batch_tokens=60)
    medians = recorder.result()
    assert set(medians) == {EMBED, 0, 1, 2, 3, FINAL}
    for layer, median in medians.items():
        pooled = np.concatenate([row.hidden[layer].ravel() for row in seen(family)])
        wanted = float(torch.from_numpy(pooled).abs().median())
        # 4e-6 from the bins (the next test), the rest from eager against SDPA.
        assert median == pytest.approx(wanted, rel=1e-5)


def _fed(recorder: Any, hidden: torch.Tensor) -> Any:
    """Hand a recorder one full batch of hidden states of layer 0."""
    real = torch.ones(hidden.shape[:2], dtype=torch.bool)
    tensors = {"resid_post": hidden}
    rows = torch.arange(len(hidden))
    recorder.update(LayerBatch(checkpoint_of("llama"), 0, rows, real, tensors))
    return recorder


def test_median_magnitude_over_many_scales() -> None:
    hidden = torch.randn(3, 41, 7) * torch.logspace(-30, 30, 41)[None, :, None]
    median = _fed(MedianMagnitude(), hidden).result()[0]
    assert median == pytest.approx(float(hidden.abs().median()), rel=4e-6)
    pieces = [_fed(MedianMagnitude(), row[None]) for row in hidden]
    pieces[2].merge(pieces[0])
    pieces[2].merge(pieces[1])
    assert pieces[2].result()[0] == median
