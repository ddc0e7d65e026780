"""`mechguard plan`: text and JSON, without a weight."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import CONFIGS
from words import tokenizer

Run = Callable[..., Any]


def config_only(family: str, folder: Path) -> Path:
    CONFIGS[family]().save_pretrained(folder)
    return folder


def described(run: Run, model: Any) -> dict[str, Any]:
    result = run("plan", model, "--json")
    assert result.code == 0, result.err
    told: dict[str, Any] = json.loads(result.out)
    return told


def test_needs_no_weights_and_allocates_none(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 200 billion parameters, of which only the config is there."""
    config = CONFIGS["llama"]()
    config.update({"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 50})
    config.update({"num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": 128})
    config.save_pretrained(tmp_path)
    told = described(run, tmp_path)
    assert told["anatomy"]["parameters"] > 1.5e11
    assert told["memory"]["weights_bytes"] == 4 * told["anatomy"]["parameters"]
    assert len(told["anatomy"]["layers"]) == 50


def test_says_in_json_what_can_be_measured(run: Run, tmp_path: Path) -> None:
    told = described(run, config_only("qwen3_5", tmp_path))
    assert set(told) == {"model", "anatomy", "dtype", "analyses", "memory"}
    layers = told["anatomy"]["layers"]
    assert [layer["attention"] for layer in layers] == ["linear", "full"] * 2
    assert layers[1]["heads"] == 4 and layers[1]["kv_heads"] == 2 and layers[1]["head_dim"] == 8
    assert layers[1]["gate"]["packing"] == "q_per_head" and layers[0]["gate"] is None
    assert "gate" in layers[1]["sites"] and "resid_post" in layers[0]["sites"]
    assert told["analyses"]["sinks"] == {
        "applies": True,
        "parts": {"gates": True, "learned_sinks": False, "logit_gap": True, "fused_kernel": True},
    }
    assert all(value > 0 for value in told["memory"].values())


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("llama", {"gates": False, "learned_sinks": False}),
        ("gpt_oss", {"gates": False, "learned_sinks": True}),
        ("gemma2", {"logit_gap": False, "fused_kernel": False}),
        ("afmoe", {"gates": True}),
    ],
)
def test_parts_follow_the_family(
    run: Run, tmp_path: Path, family: str, parts: dict[str, bool]
) -> None:
    found = described(run, config_only(family, tmp_path))["analyses"]["sinks"]["parts"]
    assert found.items() >= parts.items()


def test_half_precision_halves_the_memory(run: Run, tmp_path: Path) -> None:
    config = CONFIGS["llama"]()
    config.dtype = "bfloat16"
    config.save_pretrained(tmp_path)
    told = described(run, tmp_path)
    assert told["dtype"] == "bfloat16"
    assert told["memory"]["weights_bytes"] == 2 * told["anatomy"]["parameters"]


def test_says_in_words_the_same(run: Run, tmp_path: Path) -> None:
    result = run("plan", config_only("gpt_oss", tmp_path))
    assert result.code == 0
    for words in ("GptOssForCausalLM", "sliding 8", "yes", "sinks: applies", "resid_post"):
        assert words in result.out


def test_a_family_outside_the_interface_is_told_so(run: Run, shelf: Path) -> None:
    sinks = described(run, shelf / "bloom")["analyses"]["sinks"]
    assert sinks["applies"] is False and "--attention eager" in sinks["reason"]
    assert "does not apply" in run("plan", shelf / "bloom").out


def test_an_organism_has_a_plan(run: Run) -> None:
    told = described(run, "organism:bb-gated")
    assert told["anatomy"]["layers"][0]["gate"] is not None
    run("plan", "organism:nobody").assert_refused(2, "There is no organism 'nobody'", "bb-plain")


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ('{"model_type": "nonsense"}', 3, "transformers does not know this model type"),
        ('{"model_type": "t5"}', 3, "t5 is no causal language model"),
        ('{"model_type":', 2, "the config cannot be read"),
        ("{}", 2, "the config cannot be read"),
    ],
)
def test_a_config_that_cannot_be_used(
    run: Run, tmp_path: Path, config: str, code: int, words: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    run("plan", tmp_path).assert_refused(code, words)


def test_a_folder_without_config_and_a_hub_id_out_of_reach(run: Run, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    run("plan", tmp_path).assert_refused(2, "has no config.json")
    run("plan", "nobody/nothing").assert_refused(2, "neither a local folder nor a hub id")


def test_refusal_applies_where_there_is_a_chat_template(run: Run, shelf: Path) -> None:
    assert described(run, "organism:chat")["analyses"]["refusal"] == {"applies": True}
    base = described(run, shelf / "llama")["analyses"]["refusal"]
    assert base["applies"] is False and "--chat-template" in base["reason"]
