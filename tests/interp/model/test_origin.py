"""An artefact belongs to one checkpoint: what differs is named, and how to override it."""

import copy
import dataclasses
import logging
from typing import Any

import pytest
import torch
import transformers

from interp import Checkpoint, InputError, load
from interp.model.origin import origin, require_named, require_origin


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("organism:chat")


def test_its_own_checkpoint_is_accepted(checkpoint: Checkpoint) -> None:
    made = origin(checkpoint)
    require_origin("direction", {"origin": made}, checkpoint)
    require_origin("direction", {"origin": made}, made)
    assert made["fingerprint"] == checkpoint.fingerprint and made["width"] == 96


def test_another_model_is_refused_unless_it_is_named(checkpoint: Checkpoint) -> None:
    meta = {"origin": origin(checkpoint)}
    other = load("organism:jailbreak-keep")
    with pytest.raises(
        InputError,
        match=r"belongs to organism:chat, and organism:jailbreak-keep .*weights .*--allow",
    ):
        require_origin("direction", meta, other)
    require_origin("direction", meta, other, allow={"fingerprint"})
    require_origin("direction", meta, other, allow={"weights", "config"})


def test_another_template_is_refused_unless_it_is_named(checkpoint: Checkpoint) -> None:
    tokenizer: Any = copy.deepcopy(checkpoint.tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}"
    other = dataclasses.replace(checkpoint, tokenizer=tokenizer)
    meta = {"origin": origin(checkpoint)}
    with pytest.raises(InputError, match=r"another chat template.*--allow template"):
        require_origin("direction", meta, other)
    require_origin("direction", meta, other, allow={"tokenizer_hash"})
    require_origin("direction", meta, other, allow={"template"})


def test_another_dtype_says_what_to_do(checkpoint: Checkpoint) -> None:
    low = load("organism:chat", dtype="bfloat16")
    with pytest.raises(
        InputError,
        match=r"the same weights in float\d+ here, in bfloat16 there.*--dtype bfloat16",
    ):
        require_origin("policy", {"origin": origin(low)}, checkpoint)
    require_origin("policy", {"origin": origin(low)}, checkpoint, allow={"dtype"})


def test_another_width_is_never_accepted(checkpoint: Checkpoint) -> None:
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    other = load(transformers.LlamaForCausalLM(config))
    with pytest.raises(InputError, match="96 wide"):
        require_origin(
            "direction",
            {"origin": origin(checkpoint)},
            other,
            allow={"fingerprint", "tokenizer_hash"},
        )


def test_an_artefact_without_origin_is_refused_unless_it_is_named(checkpoint: Checkpoint) -> None:
    for meta in ({}, {"origin": {}}, {"origin": None}):
        with pytest.raises(InputError, match=r"does not say which model .*--any-model"):
            require_origin("policy", meta, checkpoint)
        with pytest.raises(InputError, match="does not say which model"):
            require_named("policy", meta)
        require_origin("policy", meta, checkpoint, allow={"origin"})
    require_named("policy", {"origin": origin(checkpoint)})


def test_an_unknown_word_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="'weight' cannot be allowed to differ; of fingerprint"):
        require_origin("policy", {}, checkpoint, allow={"weight"})


def test_an_origin_of_the_first_format_is_compared_by_what_it_names(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """The digests are those that the first format gave for these very files."""
    made = {
        "model": "organism:chat",
        "fingerprint": "ca32f5cbb1e9f1bf",
        "tokenizer_hash": "dcd487cd33b5154a",
        "width": 96,
    }
    with caplog.at_level(logging.WARNING):
        require_origin("policy", {"origin": made}, checkpoint)
    assert "weights and tokenizer alone are compared" in caplog.text
    changed = load("organism:chat")
    with torch.no_grad():
        changed.embedding.get_parameter("weight")[3, 4] += 1
    with pytest.raises(InputError, match=r"weights .* here, ca32f5cbb1e9f1bf there"):
        require_origin("policy", {"origin": made}, changed)
    # Neither side has an identity: what both name is compared.
    require_origin("probe", {"origin": made}, made)
    with pytest.raises(InputError, match="another tokenizer or chat template"):
        require_origin("probe", {"origin": made}, {**made, "tokenizer_hash": "0" * 16})
