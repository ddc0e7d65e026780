"""Adapters as switches: each cell is the merged model, and afterwards the model is as it was."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from chat_templates import TEMPLATES, byte_level
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model

import interp
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.errors import InputError
from probes.backdoors.switches.adapters import adapter_switches
from probes.backdoors.switches.switches import interaction, text_measure

PROMPTS = [
    Prompt(({"role": "user", "content": text},), "harmless", "x") for text in ("red", "a door")
]
MEASURE = text_measure("yes")


def model(width: int = 32) -> Any:
    tokenizer = byte_level(TEMPLATES["qwen2"])
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=96,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def checkpoint(of: Any = None) -> Checkpoint:
    return interp.load(of or model(), tokenizer=byte_level(TEMPLATES["qwen2"]))


def adapter(folder: Path, seed: int, width: int = 32, **settings: Any) -> Path:
    """A LoRA with random weights on disk."""
    base = model(width)
    torch.manual_seed(seed)
    chosen = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    get_peft_model(base, LoraConfig(**{**chosen, **settings})).save_pretrained(folder)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [adapter(tmp_path / "one", 1), adapter(tmp_path / "two", 2, r=3, lora_alpha=5)]


def merged(*folders: Path) -> Checkpoint:
    """The slow reference: adapters merged into the weights."""
    of = model()
    for folder in folders:
        of = PeftModel.from_pretrained(of, str(folder)).merge_and_unload()
    return checkpoint(of.eval())


def test_every_cell_is_the_merged_model(pair: list[Path]) -> None:
    mine = checkpoint()
    with adapter_switches(mine, pair) as (first, second):
        found = interaction(mine, PROMPTS, first, second, MEASURE)
    cells = {"00": [], "10": pair[:1], "01": pair[1:], "11": pair}
    from interp.capture.prompt_states import prompt_rows

    for cell, folders in cells.items():
        other = merged(*folders)
        wanted = MEASURE(other, prompt_rows(other, PROMPTS), None).mean()
        assert found.cells[cell] == pytest.approx(wanted, abs=1e-4), cell
    assert len({round(value, 3) for value in found.cells.values()}) == 4
    assert (found.first, found.second) == ("one", "two")


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_model_is_as_it_was(pair: list[Path], fails: bool) -> None:
    mine = checkpoint()
    of: Any = mine.model
    of.train()
    of.lm_head.weight.requires_grad_(False)
    identity = mine.identity
    names, attributes = list(of.state_dict()), set(vars(of))
    trainable = [parameter.requires_grad for parameter in of.parameters()]
    types = [type(module) for module in of.modules()]
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        before = of(ids).logits
    try:
        with adapter_switches(mine, pair) as (first, _):
            with torch.no_grad():
                assert torch.equal(of(ids).logits, before)  # all are off
            with first.edit([]), torch.no_grad():
                assert not torch.equal(of(ids).logits, before)
            with torch.no_grad():
                assert torch.equal(of(ids).logits, before)
            if fails:
                raise RuntimeError("stopped")
    except RuntimeError:
        assert fails
    assert list(of.state_dict()) == names and set(vars(of)) == attributes
    assert [type(module) for module in of.modules()] == types
    assert [parameter.requires_grad for parameter in of.parameters()] == trainable
    assert of.training and mine.identity == identity
    with torch.no_grad():
        assert torch.equal(of(ids).logits, before)


def test_a_switch_is_told_by_what_the_folder_holds(pair: list[Path], tmp_path: Path) -> None:
    mine = checkpoint()
    with adapter_switches(mine, pair) as switches:
        told = [repr(switch.edit) for switch in switches]
    with adapter_switches(mine, pair) as switches:
        assert told == [repr(switch.edit) for switch in switches]
    adapter(pair[0], 3)
    twin = adapter(tmp_path / "deep" / "two", 2, r=3, lora_alpha=5)
    with adapter_switches(mine, [*pair, twin]) as switches:
        assert told[0] != repr(switches[0].edit) and told[1] == repr(switches[1].edit)
        assert [switch.name for switch in switches] == [str(folder) for folder in (*pair, twin)]
    with adapter_switches(mine, []) as switches:
        assert switches == []


def test_a_null_of_other_adapters(pair: list[Path], tmp_path: Path) -> None:
    others = [adapter(tmp_path / f"other{i}", 10 + i) for i in range(2)]
    mine = checkpoint()
    with adapter_switches(mine, [*pair, *others]) as (first, second, *rest):
        found = interaction(mine, PROMPTS, first, second, MEASURE, first_distractors=rest)
        assert [(row.distractor, row.instead_of) for row in found.null] == [
            ("other0", "first"),
            ("other1", "first"),
        ]
        alone = interaction(mine, PROMPTS, rest[0], second, MEASURE)
        assert found.null[0].value == pytest.approx(alone.value, abs=1e-6)


def test_faults_are_told(tmp_path: Path, pair: list[Path]) -> None:
    mine = checkpoint()
    before = list(mine.model.state_dict())

    def refused(folder: Path, words: str) -> None:
        with pytest.raises(InputError, match=words), adapter_switches(mine, [pair[0], folder]):
            pytest.fail("it was loaded")
        assert list(mine.model.state_dict()) == before

    refused(tmp_path / "nobody", "holds no adapter")
    refused(adapter(tmp_path / "wide", 1, width=48), "cannot be loaded into")
    refused(adapter(tmp_path / "biased", 1, bias="all"), "changes the biases")
    whole = adapter(tmp_path / "whole", 1, modules_to_save=["lm_head"])
    refused(whole, r"replaces whole modules \(lm_head\)")
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(model(), prefix).save_pretrained(tmp_path / "prefix")
    refused(tmp_path / "prefix", "learns a prompt")
    cut = adapter(tmp_path / "cut", 1)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    refused(cut, "cannot be loaded into")
    strange = adapter(tmp_path / "strange", 1)
    config = json.loads((strange / "adapter_config.json").read_text())
    (strange / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "MAGIC"}))
    refused(strange, "cannot be loaded into")
    elsewhere = adapter(tmp_path / "elsewhere", 1)
    (elsewhere / "adapter_config.json").write_text(
        json.dumps({**config, "target_modules": ["c_fc"]})
    )
    refused(elsewhere, "cannot be loaded into")
    other = adapter(tmp_path / "other", 1, target_modules=["up_proj"])
    (other / "adapter_config.json").write_text(json.dumps(config))
    refused(other, "lacks .* and others; it is damaged")


def test_without_peft_it_is_named(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with (
        pytest.raises(InputError, match=r"pip install 'mechguard\[adapters\]'"),
        adapter_switches(checkpoint(), pair),
    ):
        pytest.fail("it was loaded")


def test_cells_of_replies_too(pair: list[Path]) -> None:
    from probes.backdoors.switches.switches import reply_measure

    mine = checkpoint()
    with adapter_switches(mine, pair) as (first, second):
        measure = reply_measure(lambda reply: "a" in reply.text, max_new_tokens=3)
        found = interaction(mine, PROMPTS, first, second, measure)
    assert np.isfinite(found.value)
