"""The causal panel against plain forward passes with one head's output set to zero."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import LAYERS, VOCAB, WINDOW, tiny
from words import documents, tokenizer, wordy

from analyses.sinks import causal
from analyses.sinks.causal import EDITS, CausalEffects, causal_effects
from analyses.sinks.run import sinks
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import NumericalError
from interp.interventions.edits_by_site import perturb_heads
from interp.resolve import load

HEADS = 4


def rows_of(lengths: tuple[int, ...], seed: int = 0) -> list[Row]:
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(4, VOCAB, (n,), generator=draw).tolist() for n in lengths]
    return [Row(index, (1, *some[1:]), "words") for index, some in enumerate(ids)]


def panel(checkpoint: Checkpoint, rows: list[Row], **settings: Any) -> CausalEffects:
    return causal_effects(checkpoint, rows, **{"seed": 0, "batch_tokens": 8192, **settings})


def plain_loss(model: Any, row: Row) -> float:
    """Of one row alone, in nats per token."""
    ids = torch.tensor([row.ids])
    with torch.inference_mode():
        return float(model(ids, labels=ids, use_cache=False).loss)


@contextmanager
def head_silenced(model: Any, layer: int, head: int) -> Iterator[None]:
    """Take away the head's rows of the output projection, whichever way round they are stored."""
    block = model.get_decoder().layers if hasattr(model.get_decoder(), "layers") else None
    if block is None:  # GPT-2 keeps its weight as [in, out]
        weight = model.transformer.h[layer].attn.c_proj.weight
        size = weight.shape[0] // HEADS
        part = weight[head * size : (head + 1) * size]
    else:
        weight = block[layer].self_attn.o_proj.weight
        size = weight.shape[1] // HEADS
        part = weight[:, head * size : (head + 1) * size]
    kept = part.detach().clone()
    with torch.no_grad():
        part.zero_()
        yield
        part.copy_(kept)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_5", "gpt_oss", "gemma2"])
def test_silencing_is_a_plain_pass_without_the_head(family: str) -> None:
    checkpoint = load(tiny(family))
    rows = rows_of((11, 9, 6))
    effects = panel(checkpoint, rows)
    assert effects.layers == checkpoint.anatomy.softmax_layers
    whole = np.array([plain_loss(checkpoint.model, row) for row in rows])
    assert effects.loss == pytest.approx(whole, rel=1e-5)
    for place, layer in enumerate(effects.layers):
        for head in range(HEADS):
            with head_silenced(checkpoint.model, layer, head):
                without = [plain_loss(checkpoint.model, row) for row in rows]
            found = effects.delta["ablation"][:, place, head]
            assert found == pytest.approx(without - whole, abs=2e-5)
    assert np.abs(effects.delta["ablation"]).max() > 0.01


def test_moving_to_the_sink_is_a_plain_pass_on_the_first_value() -> None:
    """With weights that put everything on key 0, moving there changes nothing; else it does."""
    checkpoint = load(tiny("gpt2"))
    (row,) = rows = rows_of((10,))
    effects = panel(checkpoint, rows)
    attention = checkpoint.model.transformer.h[1].attn
    size = 32 // HEADS

    def moved(module: Any, args: Any, output: Any) -> Any:
        # c_attn gives q, k, v side by side; with v_0 everywhere any attention yields v_0.
        q, k, v = output.split(32, dim=-1)
        v = v.clone()
        v[..., 2 * size : 3 * size] = v[:, :1, 2 * size : 3 * size]
        return torch.cat([q, k, v], -1)

    handle = attention.c_attn.register_forward_hook(moved)
    expected = plain_loss(checkpoint.model, row)
    handle.remove()
    expected -= plain_loss(checkpoint.model, row)
    assert effects.delta["move_to_sink"][0, 1, 2] == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_how_many_heads_share_a_batch_does_not_matter(family: str) -> None:
    checkpoint = load(tiny(family))
    rows = rows_of((7, 7))
    together, alone = (panel(checkpoint, rows, batch_tokens=tokens) for tokens in (8192, 1))
    for edit in EDITS:
        assert together.delta[edit] == pytest.approx(alone.delta[edit], abs=2e-5, nan_ok=True)


def test_noise_differs_by_head_layer_row_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def spy(checkpoint: Checkpoint, layer: int, mask: Any, seeds: list[int]) -> Any:
        used.extend(seeds)
        return perturb_heads(checkpoint, layer, mask, seeds)

    monkeypatch.setattr(causal, "perturb_heads", spy)
    checkpoint, rows = load(tiny("llama")), rows_of((8, 8))
    first, again, other = (panel(checkpoint, rows, seed=seed).delta["random"] for seed in (3, 3, 4))
    each = LAYERS * HEADS * len(rows)
    assert len(set(used[:each])) == each and used[:each] == used[each : 2 * each]
    assert not set(used[:each]) & set(used[2 * each :])
    assert np.array_equal(first, again) and (first != other).all()


def test_a_window_that_hides_the_first_token_has_no_move_to_sink() -> None:
    checkpoint = wordy("gemma2")
    assert [layer.window for layer in checkpoint.anatomy.layers] == [WINDOW, None] * 2
    moved = panel(checkpoint, rows_of((WINDOW + 1,))).delta["move_to_sink"]
    assert np.isnan(moved[:, ::2]).all() and np.isfinite(moved[:, 1::2]).all()
    assert np.isfinite(panel(checkpoint, rows_of((WINDOW,))).delta["move_to_sink"]).all()


def test_windowed_heads_are_left_open_in_the_table_with_a_caveat() -> None:
    texts = {"words": documents(3, 30)}
    finding = sinks(wordy("mistral"), texts, length=WINDOW + 4, causal_sequences=2)
    assert finding.heads["move_to_sink_delta_loss"].isna().all()
    assert finding.heads["ablation_delta_loss"].notna().all()
    entry = finding.to_dict()["heads"][0]
    assert entry["move_to_sink_delta_loss"] is None
    assert entry["move_to_sink_delta_loss_low"] is None
    assert any("cannot be moved to the sink" in caveat for caveat in finding.caveats)
    within = sinks(wordy("mistral"), texts, length=WINDOW, causal_sequences=2)
    assert within.heads["move_to_sink_delta_loss"].notna().all()
    assert not any("window" in caveat for caveat in within.caveats)


def dormant(value: float) -> Checkpoint:
    """A llama whose head 0 of layer 0 attends to BOS alone, whose value there is `value`.

    BOS is the only token with residual dimension 0; every token has dimension 1, from which the
    head makes its query. Both live in the slowest rotary pair, so rotation does not matter.
    """
    model = tiny("llama")
    attention, embedding = model.model.layers[0].self_attn, model.model.embed_tokens.weight
    slowest, size = 3, 8
    with torch.no_grad():
        embedding[:, 0], embedding[:, 1] = 0.0, 1.0
        embedding[1] = 0.0
        embedding[1, :2] = 1.0
        attention.q_proj.weight[:size] = 0.0
        attention.q_proj.weight[slowest, 1] = 200.0
        attention.k_proj.weight[:size] = 0.0
        attention.k_proj.weight[slowest, 0] = 200.0
        attention.v_proj.weight[:size, :2] = 0.0
        attention.v_proj.weight[:size, 0] = value
    return load(model, tokenizer=tokenizer())


def test_a_head_that_reads_nothing_from_the_sink_is_worth_nothing() -> None:
    """Known answer 12: exactly zero if v_0 = 0, and not if v_0 ≠ 0."""
    texts = {"words": documents(4, 30)}
    drained = sinks(dormant(0.0), texts, length=12, causal_sequences=4)
    head = drained.heads.iloc[0]
    assert head["alpha_first"] == pytest.approx(1.0)
    assert head["value_ratio"] == 0.0
    for edit in ("ablation", "move_to_sink", "random"):
        assert head[f"{edit}_delta_loss"] == 0.0
    others = drained.heads.iloc[2:]
    assert (others["ablation_delta_loss"] != 0).all()
    full = sinks(dormant(0.5), texts, length=12, causal_sequences=4).heads.iloc[0]
    assert full["alpha_first"] == pytest.approx(1.0)
    assert abs(full["ablation_delta_loss"]) > 1e-3
    assert full["move_to_sink_delta_loss"] == pytest.approx(0.0, abs=1e-6)
    assert abs(full["random_delta_loss"]) > 1e-3


def test_finished_layers_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, rows = load(tiny("llama")), rows_of((8, 5))
    whole = panel(checkpoint, rows, workdir=tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"causal-{layer:04d}.safetensors" for layer in range(LAYERS)]
    (tmp_path / files[2]).unlink()
    computed: list[int] = []
    real = causal._layer_effects

    def spy(checkpoint: Any, inputs: Any, layer: int, *rest: Any) -> Any:
        computed.append(layer)
        return real(checkpoint, inputs, layer, *rest)

    monkeypatch.setattr(causal, "_layer_effects", spy)
    again = panel(checkpoint, rows, workdir=tmp_path)
    assert computed == [2]
    for edit in EDITS:
        assert np.array_equal(again.delta[edit], whole.delta[edit])


def test_a_damaged_layer_file_is_named_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, rows = load(tiny("llama")), rows_of((5,))
    whole = panel(checkpoint, rows, workdir=tmp_path)
    path = tmp_path / "causal-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 8
    path.write_bytes(bytes(content))
    again = panel(checkpoint, rows, workdir=tmp_path)
    assert "causal-0001.safetensors is damaged" in caplog.text
    assert all(np.array_equal(again.delta[name], whole.delta[name], True) for name in whole.delta)
    assert path.read_bytes() != bytes(content)


def test_progress_counts_heads() -> None:
    calls: list[tuple[int, int]] = []
    panel(load(tiny("llama")), rows_of((5,)), progress=lambda *step: calls.append(step))
    assert calls == [(HEADS * layer, HEADS * LAYERS) for layer in range(1, LAYERS + 1)]


def test_no_sequences_no_panel() -> None:
    texts = {"words": documents(3, 20)}
    finding = sinks(wordy("llama"), texts, length=8, causal_sequences=0)
    assert finding.report["causal"] is None
    assert finding.heads["ablation_delta_loss"].isna().all()
    assert any("panel was skipped" in caveat for caveat in finding.caveats)
    assert "Zeroing" not in finding.verdict


def test_each_domain_gives_its_own_sequences() -> None:
    texts = {"a": documents(5, 20), "b": documents(2, 20, seed=1)}
    finding = sinks(wordy("llama"), texts, length=8, causal_sequences=3)
    assert finding.report["causal"]["sequences"] == 5
    assert finding.tables["domains"]["loss"].notna().all()


def test_a_broken_loss_is_an_error_and_leaves_no_hooks() -> None:
    model = tiny("llama")
    checkpoint = load(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(NumericalError, match="the loss of row 0 is NaN or infinite"):
        panel(checkpoint, rows_of((6, 6)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(layer) for layer in checkpoint.layers)
