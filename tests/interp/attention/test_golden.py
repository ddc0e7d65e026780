"""Golden values: two trained models against what others published and measured."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import interp
from interp.capture.heads import output_slices
from interp.capture.recorder import EMBED, FINAL
from interp.capture.recorders import (
    ColumnMass,
    FirstKeyMass,
    HeadOutputs,
    KeyNorms,
    LogitGap,
    MassiveActivations,
    MedianMagnitude,
    ResidualNorms,
    RowEntropy,
    ValueNorms,
)
from interp.capture.run import capture
from interp.data.rows import id_rows, read_texts, text_rows


@pytest.mark.parametrize("bos", [True, False])
def test_golden_sinks_of_stories260k(bos: bool, reference: Callable[[str], Path]) -> None:
    measured = reference("measurements/stories260K/sink_metrics.json")
    golden = json.loads(measured.read_text())[f"tinystories|bos={bos}"]
    checkpoint = interp.load(reference("models/stories260K-hf"), device="cpu")
    texts = read_texts(reference("text/tinystories_1000.json"))
    rows = text_rows(checkpoint, [texts], length=64, max_sequences=32, bos=bos)
    first, residual, median = FirstKeyMass(), ResidualNorms(), MedianMagnitude()
    columns = ColumnMass()
    capture(checkpoint, rows, [first, columns, residual, median])

    alpha = first.result().stack("alpha").astype(np.float64)
    np.testing.assert_allclose(alpha.mean(0), golden["alpha1_layer_head"], rtol=1e-5)
    for epsilon, percent in golden["sink1_pct"].items():
        assert 100 * (alpha > float(epsilon)).mean() == pytest.approx(percent, rel=1e-5)
    first_five = 100 * (columns.result().stack("alpha")[..., :5] > 0.3).mean((0, 1, 2))
    np.testing.assert_allclose(first_five, golden["sink_pct_first5_eps0_3"], rtol=1e-5)
    sink = first.result().stack("sink_mass").astype(np.float64).mean()
    assert sink == pytest.approx(golden["first_tok_attn_mean_excl_self"], rel=1e-5)

    # transformers' hidden_states: the embedding, each block but the last, the final norm.
    layers = [EMBED, 0, 1, 2, 3, FINAL]
    records, medians = residual.result(), median.result()
    for name, key, pool in (
        ("first", "norm_tok0", np.mean),
        ("rest", "norm_rest", np.mean),
        ("max_abs", "max_abs_by_layer", np.max),
    ):
        pooled = [pool(records.at(name, layer).astype(np.float64)) for layer in layers]
        np.testing.assert_allclose(pooled, golden[key], rtol=1e-5)
    pooled = [medians[layer] for layer in layers]
    np.testing.assert_allclose(pooled, golden["median_abs_by_layer"], rtol=1e-5)


def test_golden_attention_of_stories260k(reference: Callable[[str], Path]) -> None:
    raw = np.load(reference("measurements/stories260K/attn_tinystories_bos.npz"))
    checkpoint = interp.load(reference("models/stories260K-hf"), device="cpu")
    texts = read_texts(reference("text/tinystories_1000.json"))
    rows = text_rows(checkpoint, [texts], length=64, max_sequences=4, bos=True)
    assert np.array_equal([row.ids for row in rows.rows], raw["input_ids"])
    columns, entropy, residual = ColumnMass(), RowEntropy(), ResidualNorms()
    massive = MassiveActivations(top=3)
    capture(checkpoint, rows, [columns, entropy, residual, massive])

    attention = raw["attn"].astype(np.float64)
    viewers = 64 - np.arange(64)
    alpha = columns.result().stack("alpha")
    np.testing.assert_allclose(alpha, attention.sum(3) / viewers, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(alpha, raw["alpha"], rtol=1e-5, atol=1e-7)
    effective = (1 / (attention**2).sum(-1)).mean(-1)
    np.testing.assert_allclose(entropy.result().stack("participation"), effective, rtol=1e-5)
    logs = np.log(np.where(attention > 0, attention, 1.0))
    nats = -(attention * logs).sum(-1).mean(-1)
    np.testing.assert_allclose(entropy.result().stack("nats"), nats, rtol=1e-5)

    hidden = raw["hidden"].astype(np.float64)
    norms = np.linalg.norm(hidden, axis=-1)
    for place, layer in enumerate([EMBED, 0, 1, 2, 3, FINAL]):
        records = residual.result()
        np.testing.assert_allclose(records.at("first", layer), norms[:, place, 0], rtol=1e-5)
        rest = norms[:, place, 1:].mean(-1)
        np.testing.assert_allclose(records.at("rest", layer), rest, rtol=1e-5)
    for layer in range(4):
        flat = np.abs(hidden[:, layer + 1]).reshape(4, -1)
        found = massive.result()
        places = found.at("position", layer)[:, 0] * 64 + found.at("dim", layer)[:, 0]
        assert places.tolist() == flat.argmax(1).tolist()


def test_golden_attention_of_gpt_nano_sort(reference: Callable[[str], Path]) -> None:
    """Its published `attSm` is the attention of layer 0; `block0` to `block2` are the stream."""
    checkpoint = interp.load(reference("models/gpt-nano-sort-hf"), device="cpu")
    published = np.load(reference("models/gpt-nano-sort-hf/partials.npz"))
    assert checkpoint.tokenizer is None
    rows = id_rows(checkpoint, {"sort": published["idx"].astype(int).tolist()})
    first, columns, entropy, residual = FirstKeyMass(), ColumnMass(), RowEntropy(), ResidualNorms()
    values, keys, outputs, gap = ValueNorms(), KeyNorms(), HeadOutputs(), LogitGap()
    recorders = [first, columns, entropy, residual, values, keys, outputs, gap]
    capture(checkpoint, rows, recorders)

    attention = published["attSm"].astype(np.float64)
    mass = attention[..., 0]
    close = np.testing.assert_allclose
    close(first.result().at("alpha", 0), mass.mean(-1), rtol=1e-5)
    close(first.result().at("sink_mass", 0), mass[..., 1:].mean(-1), rtol=1e-5)
    close(columns.result().at("alpha", 0), attention.sum(2) / (11 - np.arange(11)), rtol=1e-5)
    logs = np.log(np.where(attention > 0, attention, 1.0))
    close(entropy.result().at("nats", 0), -(attention * logs).sum(-1).mean(-1), rtol=1e-5)
    effective = (1 / (attention**2).sum(-1)).mean(-1)
    close(entropy.result().at("participation", 0), effective, rtol=1e-5)

    value, key = (published[name].astype(np.float64) for name in "vk")
    close(values.result().at("raw_first", 0), np.linalg.norm(value[:, :, 0], axis=-1), rtol=1e-5)
    close(keys.result().at("first", 0), np.linalg.norm(key[:, :, 0], axis=-1), rtol=1e-5)
    slices = output_slices(checkpoint, 0).double().numpy()
    mixed = published["y"].astype(np.float64).reshape(3, 11, 3, 16)
    written = np.linalg.norm(np.einsum("hwd,bthd->bhtw", slices, mixed), axis=-1)
    close(outputs.result().at("after", 0), written.mean(-1), rtol=1e-5)
    # `att` is masked: -inf where a query may not look.
    score = published["att"].astype(np.float64)
    gaps = [score[:, :, i, 0] - score[:, :, i, 1:i].mean(-1) for i in range(2, 11)]
    close(gap.result().at("logit_gap", 0), np.mean(gaps, 0), rtol=1e-4, atol=1e-5)

    for layer, name in ((EMBED, "tok_emb"), (0, "block0"), (1, "block1"), (2, "block2")):
        norms = np.linalg.norm(published[name].astype(np.float64), axis=-1)
        close(residual.result().at("first", layer), norms[:, 0], rtol=1e-5)
        close(residual.result().at("rest", layer), norms[:, 1:].mean(-1), rtol=1e-5)
    norms = np.linalg.norm(published["ln_f"].astype(np.float64), axis=-1)
    close(residual.result().at("rest", FINAL), norms[:, 1:].mean(-1), rtol=1e-5)
