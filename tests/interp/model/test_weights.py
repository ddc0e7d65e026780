"""Digests of weights: every byte, and whatever changes them later is noticed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from families import tiny
from torch import nn

from interp import load
from interp.model import weights
from interp.model.weights import weight_digests


def _optimiser_step(model: nn.Module) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()


def _one_element(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[7, 3] += 1e-3


def _data_write(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.weight.data[3, 4] += 1e-3


def _data_replaced(model: Any) -> None:
    weight = model.model.norm.weight
    weight.data = weight.data.clone() * 1.5


def _in_bfloat16(model: nn.Module) -> None:
    model.to(torch.bfloat16)


def _another_module(model: Any) -> None:
    model.lm_head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=False)


def _rows_swapped(model: Any) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data.copy_(weight.data.flip(0))


CHANGES: list[Callable[[Any], None]] = [
    _optimiser_step,
    _one_element,
    _data_write,
    _rows_swapped,
    _data_replaced,
    _in_bfloat16,
    _another_module,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_in_a_notebook_is_noticed(change: Callable[[Any], None]) -> None:
    model = tiny("llama")
    before = weight_digests(model)
    assert weight_digests(model) is before  # nothing was hashed again
    change(model)
    assert weight_digests(model).exact != before.exact


def test_a_merged_adapter_is_noticed_and_its_weights_are_those_of_the_merged_model() -> None:
    model = tiny("llama")
    base = weight_digests(model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted: Any = peft.get_peft_model(model, config)
    beside = weight_digests(model)
    assert beside.exact == base.exact and beside.adapter is not None  # the base is named as such
    with adapted.disable_adapter():
        assert weight_digests(model) == base
    lora: Any = model.model.layers[0].self_attn.q_proj
    lora.set_scale("default", 0.5)
    assert weight_digests(model).adapter not in (None, beside.adapter)
    merged = adapted.merge_and_unload()
    assert merged is model
    after = weight_digests(model)
    assert after.adapter is None and after.exact != base.exact


TARGETS = ["q_proj", "v_proj"]
ADAPTERS: list[Any] = [
    peft.LoraConfig(target_modules=TARGETS, modules_to_save=["lm_head"]),
    peft.LoraConfig(target_modules=TARGETS, trainable_token_indices=[1, 2]),
    peft.IA3Config(target_modules=TARGETS, feedforward_modules=[]),
    peft.VeraConfig(target_modules=["q_proj"]),
    peft.LoHaConfig(target_modules=TARGETS),
    peft.LoKrConfig(target_modules=TARGETS),
    peft.OFTConfig(target_modules=TARGETS, r=0, oft_block_size=4),
    peft.FourierFTConfig(target_modules=TARGETS, n_frequency=5),
    peft.HRAConfig(target_modules=TARGETS),
]


@pytest.mark.parametrize("config", ADAPTERS, ids=lambda config: type(config).__name__)
def test_adapters_of_every_kind_are_told_from_the_weights_below(config: Any) -> None:
    model = tiny("llama")
    base = weight_digests(model)
    adapted: Any = peft.get_peft_model(model, config)
    beside = weight_digests(model)
    assert beside.exact == base.exact and beside.adapter is not None
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    assert weight_digests(model).exact == base.exact
    assert weight_digests(model).adapter not in (None, beside.adapter)
    with adapted.disable_adapter():
        assert weight_digests(model) == base


def test_every_byte_counts_also_between_the_samples() -> None:
    def of(change: float) -> str:
        model = tiny("llama")
        torch.manual_seed(0)
        model.model.embed_tokens = nn.Embedding(3000, 64)
        with torch.no_grad():
            model.model.embed_tokens.weight[1234, 5] += change
        return weight_digests(model).exact

    assert 2 * weights.SAMPLED < 3000 * 64
    assert of(0.0) == of(0.0) != of(1e-6)


def test_weights_are_recognised_in_another_dtype() -> None:
    coarse = tiny("llama").to(torch.bfloat16)
    low = weight_digests(coarse)
    fine = weight_digests(coarse.float())
    assert low.exact != fine.exact and low.rounded["bfloat16"] == fine.rounded["bfloat16"]


def test_a_checkpoint_on_disk_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "REMEMBERED_FROM", 0)
    tiny("llama").save_pretrained(tmp_path / "m")
    hashed: list[int] = []
    real = weights._digests

    def counted(model: nn.Module) -> weights.WeightDigests:
        hashed.append(1)
        return real(model)

    monkeypatch.setattr(weights, "_digests", counted)
    first = weight_digests(load(tmp_path / "m").model)
    again = load(tmp_path / "m").model
    assert weight_digests(again) == first and len(hashed) == 1
    # A changed model is not taken for its files, and does not change what is kept of them.
    _data_write(again)
    assert weight_digests(again) != first and len(hashed) == 2
    assert weight_digests(load(tmp_path / "m").model) == first and len(hashed) == 2
    # Changed before its digest was asked for.
    early = load(tmp_path / "m").model
    _data_write(early)
    assert weight_digests(early) != first
    # Another dtype is another digest; so are other bytes in the same file.
    assert weight_digests(load(tmp_path / "m", dtype="bfloat16").model).exact != first.exact
    path = tmp_path / "m" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    changed = weight_digests(load(tmp_path / "m").model)
    assert changed.exact != first.exact
    # Also where the file says that it was not changed.
    seen = path.stat()
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert weight_digests(load(tmp_path / "m").model) == first


def test_nothing_is_kept_of_files_that_change_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "REMEMBERED_FROM", 0)
    model = tiny("llama")
    model.save_pretrained(tmp_path / "m")
    weights.read_from(model, tmp_path / "m", since=0.0)
    assert weight_digests(model) and not (tmp_path / "cache").exists()


def test_a_damaged_or_unwritable_cache_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "REMEMBERED_FROM", 0)
    tiny("llama").save_pretrained(tmp_path / "m")
    first = weight_digests(load(tmp_path / "m").model)
    (kept,) = (tmp_path / "cache" / "mechguard" / "weights").iterdir()
    assert json.loads(kept.read_text())["exact"] == first.exact
    for damaged in ("{", kept.read_text().replace(first.exact, "0" * 64)):
        kept.write_text(damaged)
        assert weight_digests(load(tmp_path / "m").model) == first
        assert json.loads(kept.read_text())["exact"] == first.exact  # written anew
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert weight_digests(load(tmp_path / "m").model) == first
