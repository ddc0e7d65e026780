"""Recorders of values, outputs and gates against float64 loops, each through W_O^h."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from slow_reference import (
    FAMILIES,
    GATED,
    Array,
    Layer,
    Reference,
    agree,
    by_head,
    checkpoint_of,
    mean,
    norm,
    record,
    rows_of,
    seen,
)

import interp
from interp.capture.heads import output_slices
from interp.capture.recorders import FirstKeyMass, GateScores, HeadOutputs, KeyNorms, ValueNorms
from interp.capture.run import capture


@pytest.mark.parametrize("family", FAMILIES)
def test_value_norms(family: str) -> None:
    def through(layer: Layer, head: int) -> list[float]:
        return [norm(layer.slices[head] @ value) for value in layer.own_value(head)]

    quantities = {
        "first": lambda layer, head: through(layer, head)[0],
        "rest": lambda layer, head: mean(through(layer, head)[1:]),
    }
    reference = by_head(family, quantities)
    for row in seen(family):
        for index, layer in row.layers.items():
            raw = [[norm(v) for v in head] for head in layer.value]
            reference.setdefault(("raw_first", index), []).append([head[0] for head in raw])
            rest = [mean(head[1:]) for head in raw]
            reference.setdefault(("raw_rest", index), []).append(rest)
    agree(record(family, ValueNorms()), reference)


def test_query_heads_that_share_a_kv_head_have_value_norms_of_their_own() -> None:
    records = record("llama", ValueNorms())
    raw, through = records.at("raw_first", 0), records.at("first", 0)
    assert raw.shape == (4, 2) and through.shape == (4, 4)
    assert (np.abs(through[:, 0] / through[:, 1] - 1) > 0.01).all()
    # With one and the same slice for both heads, the difference goes away.
    model = tiny("llama")
    with torch.no_grad():
        weight = model.model.layers[0].self_attn.o_proj.weight
        weight[:, 8:16] = weight[:, :8]
    recorder = ValueNorms()
    capture(interp.load(model), rows_of("llama"), [recorder])
    same = recorder.result().at("first", 0)
    np.testing.assert_allclose(same[:, 0], same[:, 1], rtol=1e-6)
    np.testing.assert_allclose(same[:, 0], through[:, 0], rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_output_slices_add_up_to_the_projection(family: str) -> None:
    checkpoint = checkpoint_of(family)
    for index, layer in seen(family)[0].layers.items():
        slices = output_slices(checkpoint, index).double().numpy()
        np.testing.assert_array_equal(slices, layer.slices)


@pytest.mark.parametrize("family", FAMILIES)
def test_key_norms(family: str) -> None:
    reference: Reference = {}
    for row in seen(family):
        for index, layer in row.layers.items():
            norms = [[norm(k) for k in head] for head in layer.key]
            reference.setdefault(("first", index), []).append([head[0] for head in norms])
            rest = [mean(head[1:]) for head in norms]
            reference.setdefault(("rest", index), []).append(rest)
    agree(record(family, KeyNorms()), reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_outputs(family: str) -> None:
    def open_gate(layer: Layer, head: int, query: int) -> Any:
        return 1.0 if layer.gate is None else layer.gate[query, head]

    def mixed(layer: Layer, head: int, query: int) -> Array:
        value = layer.own_value(head)
        return sum(w * v for w, v in zip(layer.weights[head, query], value, strict=True))

    def before(layer: Layer, head: int) -> float:
        queries = range(len(layer.z))
        return mean(norm(layer.slices[head] @ mixed(layer, head, i)) for i in queries)

    def after(layer: Layer, head: int) -> float:
        return mean(norm(layer.slices[head] @ z) for z in layer.z[:, head])

    def share(layer: Layer, head: int) -> float:
        shares = []
        for i in range(1, len(layer.z)):
            gate = open_gate(layer, head, i)
            part = gate * layer.weights[head, i, 0] * layer.own_value(head)[0]
            whole = gate * mixed(layer, head, i)
            shares.append(norm(layer.slices[head] @ part) / norm(layer.slices[head] @ whole))
        return mean(shares)

    reference = by_head(family, {"before": before, "after": after, "sink_share": share})
    agree(record(family, HeadOutputs()), reference)


@pytest.mark.parametrize("family", GATED)
def test_gate_scores(family: str) -> None:
    def scores(layer: Layer, head: int) -> Array:
        assert layer.gate is not None
        return layer.gate[:, head]

    def gated_mass(layer: Layer, head: int) -> float:
        gate = [mean(row) for row in scores(layer, head)]
        weights = layer.weights[head]
        return mean(gate[i] * weights[i, 0] for i in range(1, len(weights)))

    quantities: dict[str, Callable[[Layer, int], float]] = {
        "mean": lambda layer, head: mean(scores(layer, head).ravel()),
        "below_0_01": lambda layer, head: mean(scores(layer, head).ravel() < 0.01),
        "below_0_1": lambda layer, head: mean(scores(layer, head).ravel() < 0.1),
        "gated_sink_mass": gated_mass,
    }
    reference = by_head(family, quantities)
    agree(record(family, GateScores()), reference)
    last = max(layer for _, layer in reference)
    assert max(map(np.max, reference["below_0_1", last])) > 0


def test_a_half_closed_gate_halves_the_gated_mass_alone() -> None:
    model = tiny("lfm3")
    with torch.no_grad():
        model.model.layers[2].self_attn.g_proj.weight.zero_()
    checkpoint = interp.load(model)
    gates, first = GateScores(), FirstKeyMass()
    capture(checkpoint, rows_of("lfm3"), [gates, first])
    assert (gates.result().stack("mean") == 0.5).all()
    raw, gated = first.result().stack("sink_mass"), gates.result().stack("gated_sink_mass")
    np.testing.assert_allclose(gated, raw / 2, rtol=1e-6)
