"""Identity: what a checkpoint is, and in words what differs between two."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import tiny

from interp import InputError, load
from interp.checkpoint import Checkpoint
from interp.model.identity import Identity, differences, effective_config, tokenizer_hash


def llama(**changes: Any) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        **changes,
    )
    return transformers.LlamaForCausalLM(config)


def of(**changes: Any) -> Identity:
    return load(llama(**changes)).identity


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"rope_theta": 10.0}, {"rope_theta": 10000.0}, "rope_theta 10000 here, 10 there"),
        ({"rms_norm_eps": 1e-3}, {}, "rms_norm_eps 1e-06 here, 0.001 there"),
        ({"hidden_act": "gelu"}, {}, "hidden_act silu here, gelu there"),
        ({"max_position_embeddings": 99}, {}, "max_position_embeddings 2048 here, 99 there"),
        (
            {},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "factor 2 here, absent there",
        ),
    ],
)
def test_the_same_weights_under_another_config(
    there: dict[str, Any], here: dict[str, Any], said: str
) -> None:
    one, other = of(**there), of(**here)
    assert one.digest != other.digest and one.weights == other.weights
    assert list(differences(one, other)) == ["config"]
    assert said in differences(one, other)["config"]


def test_a_whole_number_is_one_however_it_is_spelled() -> None:
    def spelled(theta: float) -> Identity:
        model = llama()
        model.config.rope_parameters = {
            "rope_type": "default",
            "rope_theta": theta,
            "list": [theta],
        }
        return load(model).identity

    assert spelled(10000) == spelled(10000.0) != spelled(10000.5)
    assert spelled(10000).digest == spelled(10000.0).digest


def python_tokenizer(folder: Path, merges: str) -> transformers.CTRLTokenizer:
    folder.mkdir()
    words = ["<unk>", "a@@", "b@@", "c", "ab@@", "bc", "a", "b"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text(f"#version\n{merges}\n")
    return transformers.CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def test_merges_of_a_tokenizer_without_a_backend_count(tmp_path: Path) -> None:
    one = python_tokenizer(tmp_path / "one", "a b\nb c</w>")
    other = python_tokenizer(tmp_path / "other", "b c</w>\na b")
    assert one.get_vocab() == other.get_vocab()
    assert one("abc")["input_ids"] != other("abc")["input_ids"]
    assert tokenizer_hash(one) != tokenizer_hash(other)
    one.save_pretrained(tmp_path / "saved")
    again = transformers.CTRLTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer_hash(again) == tokenizer_hash(one)


def test_a_window_is_of_the_config() -> None:
    def mistral(window: int) -> Identity:
        torch.manual_seed(0)
        config = tiny("mistral").config
        config.sliding_window = window
        return load(transformers.MistralForCausalLM(config)).identity

    assert "sliding_window 8 here, 4 there" in differences(mistral(4), mistral(8))["config"]


def test_what_changes_no_forward_pass_is_not_of_the_identity() -> None:
    plain = of()
    assert plain == of(use_cache=False, attention_dropout=0.1, eos_token_id=5)
    model = llama()
    model.config._name_or_path, model.config.architectures = "elsewhere", ["Other"]
    assert load(model).identity == plain


def test_a_change_of_the_config_in_a_notebook_shows() -> None:
    checkpoint = load(llama())
    before = checkpoint.identity
    checkpoint.model.config.rms_norm_eps = 0.5
    assert checkpoint.fingerprint != before.digest
    assert differences(before, checkpoint.identity) == {
        "config": "rms_norm_eps 0.5 here, 1e-06 there"
    }


def test_other_weights_and_dtypes_are_told_apart() -> None:
    plain = of()
    other = llama()
    with torch.no_grad():
        other.lm_head.weight[1, 1] += 1
    assert list(differences(plain, load(other).identity)) == ["weights"]
    low = load(llama().to(torch.bfloat16)).identity
    assert differences(plain, low) == {
        "dtype": "the same weights in bfloat16 here, in float32 there"
    }
    half = load(llama().half()).identity
    assert "the same weights in float16 here" in differences(plain, half)["dtype"]
    both = differences(plain, load(other.to(torch.bfloat16)).identity)
    assert set(both) == {"weights", "dtype"} and both["dtype"] == "bfloat16 here, float32 there"


def chat() -> Checkpoint:
    return load("organism:chat")


def test_tokenizer_and_template_are_parts_of_their_own() -> None:
    one = chat()
    before = one.identity
    tokenizer: Any = copy.deepcopy(one.tokenizer)
    text = tokenizer.decode([5, 6, 7])
    tokenizer(text, padding=True, truncation=True, max_length=3)  # how it is called is no part
    assert replace(one, tokenizer=tokenizer).identity == before
    tokenizer.chat_template += " "
    assert differences(before, replace(one, tokenizer=tokenizer).identity) == {
        "template": "another chat template"
    }
    tokenizer.chat_template = None
    assert differences(before, replace(one, tokenizer=tokenizer).identity) == {
        "template": "no chat template here, one there"
    }
    bare = replace(one, tokenizer=None).identity
    assert set(differences(bare, before)) == {"tokenizer", "template"}
    more: Any = copy.deepcopy(one.tokenizer)
    more.add_tokens(["unheard"])
    assert differences(before, replace(one, tokenizer=more).identity) == {
        "tokenizer": "another tokenizer"
    }
    assert {one.tokenizer_hash, replace(one, tokenizer=more).tokenizer_hash} > {one.tokenizer_hash}


def test_an_adapter_is_a_part_of_its_own() -> None:
    import peft

    model = llama()
    before = load(model).identity
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    adapted = load(model).identity
    assert differences(before, adapted) == {"adapter": "adapter here, none there"}
    assert adapted.weights == before.weights and adapted.digest != before.digest


def test_an_identity_comes_back_from_json() -> None:
    made = chat().identity
    assert Identity.from_json(made.as_json()) == made
    for field in ("weights", "config", "dtype"):
        with pytest.raises(InputError, match="needs weights"):
            Identity.from_json({**made.as_json(), field: None})


def test_files_and_objects_of_one_model_are_the_same(tmp_path: Path) -> None:
    one = chat()
    one.model.save_pretrained(tmp_path)
    assert one.tokenizer is not None
    one.tokenizer.save_pretrained(tmp_path)
    assert (
        load(tmp_path).identity == one.identity == load(one.model, tokenizer=one.tokenizer).identity
    )
    one.model.save_pretrained(tmp_path / "parts", max_shard_size="300KB")
    one.tokenizer.save_pretrained(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert load(tmp_path / "parts").fingerprint == one.fingerprint


def test_the_config_is_flat_and_says_the_class() -> None:
    found = effective_config(llama())
    assert found["class"] == "LlamaForCausalLM" and found["rope_parameters.rope_theta"] == 10000.0
    assert not any(value is None for value in found.values())
