"""Recorders of attention against float64 loops over eager weights, and known answers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from families import WINDOW, tiny
from slow_reference import FAMILIES, Layer, agree, by_head, checkpoint_of, entropy_of, mean, record

import interp
from interp.capture.recorders import (
    ChosenKeyMass,
    ColumnMass,
    FirstKeyMass,
    HeadOutputs,
    LearnedSinkShare,
    LogitGap,
    RowEntropy,
)
from interp.capture.run import capture
from interp.checkpoint import Checkpoint
from interp.data.rows import id_rows


@pytest.mark.parametrize("family", FAMILIES)
def test_first_and_chosen_key_mass(family: str) -> None:
    def alpha(layer: Layer, head: int) -> float:
        return mean(row[0] for row in layer.weights[head])

    def sink(layer: Layer, head: int) -> float:
        return mean(row[0] for row in layer.weights[head][1:])

    def chosen(layer: Layer, head: int) -> list[float]:
        return [mean(row[key] for row in layer.weights[head][key:]) for key in (3, 0, 5)]

    agree(record(family, FirstKeyMass()), by_head(family, {"alpha": alpha, "sink_mass": sink}))
    agree(record(family, ChosenKeyMass((3, 0, 5))), by_head(family, {"mass": chosen}))


def test_a_position_that_a_row_lacks_has_no_mass() -> None:
    mass = record("llama", ChosenKeyMass((0, 10))).at("mass", 2)
    assert np.isnan(mass[0, :, 1]).all() and np.isfinite(mass[0, :, 0]).all()
    assert np.isfinite(mass[1:]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_column_mass(family: str) -> None:
    def alpha(layer: Layer, head: int) -> list[float]:
        weights = layer.weights[head]
        return [mean(weights[i, k] for i in range(k, len(weights))) for k in range(len(weights))]

    def entropy(layer: Layer, head: int) -> float:
        weights = layer.weights[head]
        length = len(weights)
        shares = [entropy_of(weights[k:, k]) / math.log(length - k) for k in range(length - 1)]
        return max(shares)

    reference = by_head(family, {"alpha": alpha, "column_entropy": entropy})
    agree(record(family, ColumnMass()), reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_row_entropy(family: str) -> None:
    def nats(layer: Layer, head: int) -> list[float]:
        return [entropy_of(row) for row in layer.weights[head]]

    def share(layer: Layer, head: int) -> float:
        window = layer.window or len(layer.weights[head])
        scales = [math.log(min(i + 1, window)) for i in range(len(layer.weights[head]))]
        return mean(e / s if s else 0.0 for e, s in zip(nats(layer, head), scales, strict=True))

    def participation(layer: Layer, head: int) -> float:
        return mean(sum(row) ** 2 / sum(row**2) for row in layer.weights[head])

    quantities = {
        "entropy": share,
        "nats": lambda layer, head: mean(nats(layer, head)),
        "participation": participation,
    }
    agree(record(family, RowEntropy()), by_head(family, quantities))


def test_learned_sink_share() -> None:
    def share(layer: Layer, head: int) -> float:
        return mean(1 - sum(row) for row in layer.weights[head])

    reference = by_head("gpt_oss", {"learned_sink": share})
    agree(record("gpt_oss", LearnedSinkShare()), reference)
    assert min(map(np.min, reference["learned_sink", 0])) > 0.01
    needs = LearnedSinkShare().needs(checkpoint_of("llama"))
    assert not needs.sites and not needs.demands


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma2"])
def test_logit_gap(family: str) -> None:
    def gap(layer: Layer, head: int) -> float:
        query = layer.query[head]
        key = layer.key[head // (len(layer.query) // len(layer.key))]
        score = [[float(q @ k) * layer.scale for k in key] for q in query]
        last = min(len(query), layer.window or len(query))
        return mean(score[i][0] - mean(score[i][1:i]) for i in range(2, last))

    agree(record(family, LogitGap()), by_head(family, {"logit_gap": gap}))


def test_logit_gap_is_left_out_where_scores_are_capped() -> None:
    assert not LogitGap().needs(checkpoint_of("gemma2")).sites


def test_logit_gap_of_two_tokens_is_undefined() -> None:
    checkpoint = checkpoint_of("llama")
    recorder = LogitGap()
    capture(checkpoint, id_rows(checkpoint, {"short": [[5, 6], [5, 6, 7]]}), [recorder])
    gap = recorder.result().at("logit_gap", 1)
    assert np.isnan(gap[0]).all() and np.isfinite(gap[1]).all()


def _uniform(family: str) -> Checkpoint:
    """All queries zero: every score is 0 and every row uniform."""
    model = tiny(family)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    return interp.load(model)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_uniform_attention(family: str) -> None:
    """Known answer 1: α_1 = H_T/T, participation the mean of the keys in view, entropy share 1."""
    checkpoint = _uniform(family)
    length, window = 20, WINDOW if family == "mistral" else 20
    rows = id_rows(checkpoint, {"ids": [list(range(3, 3 + length))]})
    first, columns, entropy, gap = FirstKeyMass(), ColumnMass(), RowEntropy(), LogitGap()
    capture(checkpoint, rows, [first, columns, entropy, gap])
    visible = [min(i, window) for i in range(1, length + 1)]
    alpha = sum(1 / i for i in range(1, window + 1)) / length
    close = pytest.approx
    assert first.result().stack("alpha").ravel() == close(alpha, rel=1e-6)
    assert columns.result().stack("alpha")[..., 0].ravel() == close(alpha, rel=1e-6)
    assert entropy.result().stack("participation").ravel() == close(mean(visible), rel=1e-5)
    # A single key has no entropy to share out: the first row counts 0.
    assert entropy.result().stack("entropy").ravel() == close((length - 1) / length, rel=1e-5)
    assert gap.result().stack("logit_gap").ravel() == close(0.0, abs=1e-6)
    if family == "llama":
        assert not (first.result().stack("alpha") > 0.3).any()


def test_all_attention_on_the_first_token() -> None:
    """Known answer 1: planted keys that only the first token has give α_1 = 1."""
    model = tiny("gpt2")
    attention = model.transformer.h[2].attn
    first = 5

    def aim(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        query, key, value = output.clone().split(32, dim=-1)
        query.fill_(3.0)
        key.fill_(-3.0)
        key[:, 0] = 3.0
        return torch.cat([query, key, value], -1)

    checkpoint = interp.load(model)
    rows = id_rows(checkpoint, {"ids": [[first, *range(10, 29)]]})
    mass, entropy, outputs = FirstKeyMass(), RowEntropy(), HeadOutputs()
    with attention.c_attn.register_forward_hook(aim):
        capture(checkpoint, rows, [mass, entropy, outputs])
    assert mass.result().at("alpha", 2).ravel() == pytest.approx(1.0, abs=1e-6)
    assert mass.result().at("sink_mass", 2).ravel() == pytest.approx(1.0, abs=1e-6)
    assert entropy.result().at("participation", 2).ravel() == pytest.approx(1.0, abs=1e-5)
    assert entropy.result().at("entropy", 2).ravel() == pytest.approx(0.0, abs=1e-6)
    assert outputs.result().at("sink_share", 2).ravel() == pytest.approx(1.0, abs=1e-5)


def test_a_planted_sink_logit() -> None:
    """Known answer 2: with logit a on the first key, A_i1 = e^a / (e^a + i − 1)."""
    model = tiny("gpt2")
    logit, length, dim = 2.5, 20, 8

    def aim(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        query, key, value = output.clone().split(32, dim=-1)
        query.fill_(1.0)
        key.zero_()
        key[:, 0] = logit / math.sqrt(dim)
        return torch.cat([query, key, value], -1)

    checkpoint = interp.load(model)
    rows = id_rows(checkpoint, {"ids": [list(range(3, 3 + length))]})
    mass, gap = FirstKeyMass(), LogitGap()
    with model.transformer.h[1].attn.c_attn.register_forward_hook(aim):
        capture(checkpoint, rows, [mass, gap])
    wanted = [math.exp(logit) / (math.exp(logit) + i - 1) for i in range(1, length + 1)]
    assert mass.result().at("alpha", 1).ravel() == pytest.approx(mean(wanted), rel=1e-5)
    assert mass.result().at("sink_mass", 1).ravel() == pytest.approx(mean(wanted[1:]), rel=1e-5)
    assert gap.result().at("logit_gap", 1).ravel() == pytest.approx(logit, rel=1e-5)
