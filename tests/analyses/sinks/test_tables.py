"""The tables of the finding against brute force on the model's own T×T weights."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import WINDOW, tiny
from numpy.typing import NDArray
from refused import bypassing
from words import documents, tokenizer, wordy

import analyses
from analyses.sinks import tables
from analyses.sinks.measure import Measurements, RecorderName
from analyses.sinks.run import sinks
from interp.capture.recorder import RowRecords
from interp.checkpoint import Checkpoint
from interp.data.rows import Row, Rows
from interp.resolve import load

LENGTH = 16
HEADS, KV_HEADS, SIZE = 4, 2, 8


def found(checkpoint: Checkpoint, **settings: Any) -> analyses.SinkFinding:
    texts = {"words": documents(6, 30)}
    settings = {"length": LENGTH, "causal_sequences": 0, "epsilon": 0.1, **settings}
    return sinks(checkpoint, texts, **settings)


def ids_of(checkpoint: Checkpoint) -> torch.Tensor:
    """The rows that `found` runs on, cut by hand."""
    words = [text.split()[: LENGTH - 1] for text in documents(6, 30)]
    return torch.tensor([[1, *(int(word[1:]) for word in row)] for row in words])


def eager_weights(checkpoint: Checkpoint) -> list[torch.Tensor]:
    """[rows, heads, queries, keys] of each softmax layer, from an untouched copy."""
    model = copy.deepcopy(checkpoint.model)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(ids_of(checkpoint), output_attentions=True, use_cache=False)
    return [weights for weights in output.attentions if weights is not None]


@pytest.mark.parametrize("family", ["llama", "qwen3_5", "gpt_oss", "gemma2", "mistral"])
def test_heads_are_those_of_the_eager_weights(family: str) -> None:
    checkpoint = wordy(family)
    heads = found(checkpoint).heads
    assert heads["layer"].unique().tolist() == list(checkpoint.anatomy.softmax_layers)
    layers = checkpoint.anatomy.softmax_layers
    for layer, weights in zip(layers, eager_weights(checkpoint), strict=True):
        ours = heads[heads["layer"] == layer]
        assert ours["head"].tolist() == list(range(HEADS))
        alpha = weights[..., 0].mean(-1)
        # Beside a learned sink, concentration is that of the distribution over tokens.
        shares = weights / weights.sum(-1, keepdim=True)
        expected = {
            "alpha_first": alpha.mean(0),
            "sink_mass": weights[:, :, 1:, 0].mean((0, 2)),
            "sink_percent": 100 * (alpha > 0.1).double().mean(0),
            "participation": (1 / shares.square().sum(-1)).mean((0, 2)),
        }
        for column, values in expected.items():
            assert ours[column].to_numpy() == pytest.approx(values.numpy(), rel=2e-5), column
        assert (ours["alpha_first_low"] <= ours["alpha_first"]).all()
        assert (ours["alpha_first"] <= ours["alpha_first_high"]).all()


def test_entropies_are_normalised_as_in_their_source() -> None:
    """Guo et al.: rows by log i (0 for the first), columns by log(T−j+1), the largest of them."""
    checkpoint = wordy("llama")
    heads = found(checkpoint).heads
    scale = torch.arange(1, LENGTH + 1).double().log()
    for layer, weights in enumerate(eager_weights(checkpoint)):
        weights = weights.double()
        rows = -torch.xlogy(weights, weights).sum(-1) / scale.clamp_min(1e-9)
        rows[..., 0] = 0.0
        columns = weights / weights.sum(-2, keepdim=True)
        columns = -torch.xlogy(columns, columns).sum(-2) / scale.flip(0).clamp_min(1e-9)
        columns[..., -1] = 0.0
        ours = heads[heads["layer"] == layer]
        assert ours["entropy"].to_numpy() == pytest.approx(rows.mean((0, 2)).numpy(), abs=1e-5)
        largest = columns.amax(-1).mean(0).numpy()
        assert ours["column_entropy"].to_numpy() == pytest.approx(largest, abs=1e-5)
        narrow = (ours["entropy"] < 0.3) & (ours["column_entropy"] > 0.9)
        assert ours["entropy_sink"].tolist() == narrow.tolist()


def test_the_rate_counts_sequences_not_their_mean() -> None:
    """Half of the sequences above ε, their mean below: 50 %, where the mean would say 0 %."""
    rows = tuple(Row(i, (1, 4), "words") for i in range(4))
    alpha = np.array([[0.31], [0.31], [0.01], [0.01]], np.float32)
    records: dict[RecorderName, RowRecords] = {
        "first_key": RowRecords(np.arange(4), {"alpha": {0: alpha}, "sink_mass": {0: alpha}})
    }
    anatomy = load(tiny("gpt2")).anatomy
    anatomy = replace(anatomy, layers=(replace(anatomy.layers[0], heads=1, kv_heads=1),))
    (head,) = tables.head_rows(
        anatomy, Measurements(Rows(rows, True), records, {}), 0.3, effects=None, seed=0
    )
    assert head.alpha_first == pytest.approx(0.16)
    assert head.sink_percent == 50.0


def test_the_rate_of_the_report_counts_sequences_too() -> None:
    checkpoint = wordy("llama")
    alpha = np.stack([weights[..., 0].mean(-1).numpy() for weights in eager_weights(checkpoint)], 1)
    # Just above the mean of some head, so that averaging first would give another rate.
    epsilon = float(alpha.mean(0).max()) + 1e-3
    rate = found(checkpoint, epsilon=epsilon).report["sink_rate"]
    assert (alpha.mean(0) > epsilon).sum() == 0
    assert rate["percent"] == pytest.approx(100 * (alpha > epsilon).mean())
    assert rate["percent"] > 0


def gate_and_value(checkpoint: Checkpoint, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gates [rows, heads, queries, size] and values [rows, keys, KV heads, size] of a qwen3_5."""
    attention = checkpoint.layers[layer].self_attn
    seen: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda _, __, output: seen.append(output))
        for module in (attention.q_proj, attention.v_proj)
    ]
    with torch.inference_mode():
        checkpoint.model(ids_of(checkpoint), use_cache=False)
    for handle in handles:
        handle.remove()
    packed = seen[0].unflatten(-1, (HEADS, 2 * SIZE))
    return packed[..., SIZE:].sigmoid().transpose(1, 2), seen[1].unflatten(-1, (KV_HEADS, SIZE))


def test_gates_weigh_the_sink() -> None:
    checkpoint = wordy("qwen3_5")
    heads = found(checkpoint).heads
    layers = checkpoint.anatomy.softmax_layers
    for layer, weights in zip(layers, eager_weights(checkpoint), strict=True):
        gate, value = gate_and_value(checkpoint, layer)
        ours = heads[heads["layer"] == layer]
        mass = (gate.mean(-1) * weights[..., 0])[..., 1:].mean((0, 2))
        assert ours["gated_sink_mass"].to_numpy() == pytest.approx(mass.numpy(), rel=1e-5)
        assert (ours["gated_sink_mass"] < ours["sink_mass"]).all()
        assert ours["gate_mean"].to_numpy() == pytest.approx(gate.mean((0, 2, 3)), rel=1e-5)
        below = (gate < 0.1).float().mean((0, 2, 3))
        assert ours["gate_below_0_1"].to_numpy() == pytest.approx(below, abs=1e-6)
        out = checkpoint.layers[layer].self_attn.o_proj.weight.detach()
        out = out.unflatten(1, (HEADS, SIZE))
        norms = torch.einsum("btkd,whd->bthw", value[:, :, :1], out[:, :2]).norm(dim=-1)
        ratio = norms[:, 0].mean(0) / norms[:, 1:].mean((0, 1))
        assert ours["value_ratio"].to_numpy()[:2] == pytest.approx(ratio, rel=1e-5)
    assert len(set(heads["value_ratio"])) == len(heads)  # heads of one KV group differ
    raw = heads["raw_value_ratio"].to_numpy()
    assert (raw[::2] == raw[1::2]).all() and len(set(raw)) == len(heads) // 2


def test_a_learned_sink_takes_what_the_tokens_do_not_get() -> None:
    checkpoint = wordy("gpt_oss")
    heads = found(checkpoint).heads
    for layer, weights in enumerate(eager_weights(checkpoint)):
        ours = heads.loc[heads["layer"] == layer, "learned_sink"].to_numpy()
        assert ours == pytest.approx(1 - weights.sum(-1).mean((0, 2)), abs=1e-5)
    assert (heads["learned_sink"] > 0.01).all()
    assert heads["gated_sink_mass"].isna().all()


def test_what_a_family_lacks_is_left_open() -> None:
    heads = found(wordy("llama")).heads
    for column in ("gated_sink_mass", "gate_mean", "gate_below_0_01", "learned_sink"):
        assert heads[column].isna().all()
    bloom = found(load(bypassing("bloom"), tokenizer=tokenizer()), attention="eager").heads
    assert bloom["logit_gap"].isna().all() and bloom["value_ratio"].isna().all()
    assert bloom["output_norm"].isna().all() and bloom["output_norm_gated"].notna().all()


def test_layers_describe_the_stream_behind_each_block() -> None:
    checkpoint = wordy("qwen3_5")
    finding = found(checkpoint)
    with torch.inference_mode():
        output = checkpoint.model(
            ids_of(checkpoint), output_hidden_states=True, use_cache=False
        ).hidden_states
    layers = finding.layers
    assert layers["attention"].tolist() == ["linear", "full"] * 2
    for column in ("first_token_attention", "gate_mean", "sink_percent"):
        assert layers[column].isna().tolist() == [True, False] * 2
    states = [finding.report["embedding"], *layers.iloc[:-1].to_dict(orient="records")]
    for state, hidden in zip([*states, finding.report["final_norm"]], output, strict=True):
        norms = hidden.norm(dim=-1)
        first, rest = float(norms[:, 0].mean()), float(norms[:, 1:].mean())
        assert state["residual_norm_first"] == pytest.approx(first, rel=1e-5)
        assert state["residual_norm_rest"] == pytest.approx(rest, rel=1e-5)
        assert state["residual_peak"] == pytest.approx(first - rest, abs=1e-4)
        assert state["residual_ratio"] == pytest.approx(first / rest, rel=1e-5)
        assert state["max_abs"] == pytest.approx(float(hidden.abs().max()), rel=1e-5)
        assert state["median_abs"] == pytest.approx(float(hidden.abs().median()), rel=1e-5)


def planted_massive() -> Checkpoint:
    """A llama that writes 5000 to dimension 7 behind layer 1, at BOS alone."""
    model = tiny("llama")
    layers = model.model.layers
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.0
        model.model.embed_tokens.weight[1] = 0.0
        model.model.embed_tokens.weight[1, 0] = 50.0
        for layer in layers:
            for name in ("o_proj", "down_proj"):
                module = layer.self_attn if name == "o_proj" else layer.mlp
                getattr(module, name).weight[[0, 7]] = 0.0
        mlp = layers[1].mlp
        for projection in (mlp.gate_proj, mlp.up_proj):
            projection.weight[5] = 0.0
            projection.weight[5, 0] = 20.0
        mlp.down_proj.weight[:, 5] = 0.0
        mlp.down_proj.weight[7, 5] = -1.0
    return load(model, tokenizer=tokenizer())


def test_a_planted_massive_activation_is_the_one_found() -> None:
    finding = found(planted_massive())
    table = finding.tables["massive_activations"]
    assert table["layer"].tolist() == [1, 2, 3]
    assert set(table["dim"]) == {7} and set(table["position"]) == {0}
    assert set(table["token"]) == {"<bos>"} and set(table["sequences"]) == {6}
    assert (table["value"] < -1000).all()
    assert (table["value"].abs() >= 1000 * table["median"]).all()
    assert finding.layers["max_abs"].to_numpy()[1:] == pytest.approx(table["value"].abs())
    assert "3 massive activations" in finding.verdict
    assert found(wordy("llama")).tables["massive_activations"].empty


@pytest.mark.parametrize(
    ("value", "median", "massive"),
    [(100.0, 0.01, False), (100.1, 0.01, True), (-150.0, 0.15, True), (150.0, 0.151, False)],
)
def test_suns_criterion(value: float, median: float, massive: bool) -> None:
    assert bool(tables._massive(np.array([[value]]), np.array([median]))[0, 0]) is massive


def test_uniform_columns() -> None:
    length = 9
    uniform = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    expected = uniform.sum(0) / np.arange(length, 0, -1)
    assert tables.uniform_columns(length) == pytest.approx(expected)
    assert tables.uniform_columns(64)[0] == pytest.approx(0.0741, abs=1e-4)


def test_positions_average_the_heads_that_see_them() -> None:
    checkpoint = wordy("gemma2")
    table = found(checkpoint).tables["positions"]
    seeing = eager_weights(checkpoint)[1::2]  # the others attend within WINDOW
    viewers = torch.arange(LENGTH, 0, -1)
    expected = torch.stack([weights.sum(-2) / viewers for weights in seeing]).mean((0, 1, 2))
    assert table["mass"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-4)
    assert (table["low"] <= table["mass"]).all() and (table["mass"] <= table["high"]).all()
    assert table["position"].tolist() == list(range(LENGTH)) and LENGTH > WINDOW


def _columns(alpha: NDArray[Any], ids: list[tuple[int, ...]], bos: bool) -> Measurements:
    rows = Rows(tuple(Row(i, row, "words") for i, row in enumerate(ids)), bos)
    records: dict[RecorderName, RowRecords] = {
        "columns": RowRecords(np.arange(len(ids)), {"alpha": {0: alpha}})
    }
    return Measurements(rows, records, {})


@pytest.mark.parametrize("bos", [True, False])
def test_which_tokens_are_sinks(bos: bool) -> None:
    """Two rows and two heads: the peaks are at the start, on a full stop, on a word, nowhere."""
    names = ["<pad>", "<bos>", ".", "word"]
    reader = tokenizer()
    reader.decode = lambda ids: names[ids[0]]
    checkpoint = load(tiny("llama"), tokenizer=reader)
    alpha = np.full((2, 2, 8), 0.05, np.float32)
    alpha[0, 0, 0], alpha[1, 0, 0] = 0.9, 0.7
    alpha[0, 1, 2], alpha[1, 1, 3] = 0.6, 0.29
    alpha[1, 1, 7] = 1.0  # the second half does not count
    ids = [(1, 3, 2, 3, 3, 3, 3, 3)] * 2
    start, stop = tables.token_rows(checkpoint, _columns(alpha, ids, bos), 0.3)
    assert (start.token, stop.token) == ("<bos>", ".")
    assert (start.kind, stop.kind) == ("bos" if bos else "first", "delimiter")
    assert (start.heads, stop.heads) == (1.0, 0.5)
    assert (start.mass, stop.mass) == pytest.approx((0.8, 0.6))


def test_tokens_without_a_tokenizer_are_ids() -> None:
    bare = load(tiny("llama"))
    assert tables.token_text(bare, 17) == "#17"
    assert tables.token_text(wordy("llama"), 17) == "w17"


def test_tables_are_ordinary_frames() -> None:
    finding = found(wordy("qwen3_5"), causal_sequences=2)
    for table in finding.tables.values():
        assert isinstance(table, pd.DataFrame)
        assert table.index.tolist() == list(range(len(table)))
    assert finding.tables["sink_tokens"]["position"].max() < LENGTH // 2


def test_massive_activations_beyond_the_table_are_counted() -> None:
    finding = found(planted_massive())
    assert not any("massive activations; the table lists" in note for note in finding.caveats)
    crowded = planted_massive()
    crowded.embedding.weight.data[:, 8:16] = 30_000.0
    counted = found(crowded)
    assert any("the table lists the 8 largest of each" in note for note in counted.caveats)
