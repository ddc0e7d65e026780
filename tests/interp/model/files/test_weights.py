"""Weights that are not those of the config, and what is no part of a decoder."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from families import FAMILIES, tiny
from safetensors.torch import load_file, save_file

from interp.errors import InputError
from interp.model.files.weights import require_room
from interp.resolve import load


def add(folder: Path, *names: str) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {n: torch.ones(2) for n in names}, path, {"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_too_many_is_named_in_every_family(family: str, tmp_path: Path) -> None:
    """As many layers fewer as the pattern of their kinds allows."""
    tiny(family).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    name = "n_layer" if family == "gpt2" else "num_hidden_layers"
    content[name] -= 2
    if "layer_types" in content:
        content["layer_types"] = content["layer_types"][:2]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tensor\(s\), .*\.2\..* that the config does not ask"):
        load(tmp_path)


def test_buffers_of_older_versions_are_no_weights(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "llama")
    add(tmp_path / "llama", "model.layers.0.self_attn.rotary_emb.inv_freq")
    load(tmp_path / "llama")
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    add(tmp_path / "gpt2", "transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")
    load(tmp_path / "gpt2")


def test_what_is_no_part_of_the_decoder_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny("llama").save_pretrained(tmp_path)
    add(tmp_path, "v_head.summary.weight")
    with caplog.at_level(logging.WARNING, "mechguard.model"):
        load(tmp_path)
    assert "not loaded, for no part of the decoder: 1 tensor(s), v_head.summary" in caplog.text


def test_tied_weights_may_be_there_or_not(tmp_path: Path) -> None:
    model = tiny("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    whole["lm_head.weight"] = whole["model.embed_tokens.weight"].clone()
    save_file(whole, tmp_path / "model.safetensors", {"format": "pt"})
    load(tmp_path)


def test_room_is_reckoned_in_bytes() -> None:
    require_room(20_000_000, 20_000_000, "x")
    with pytest.raises(InputError, match=r"x: .* 40,000,000 parameters, .* have 20,000,000 bytes"):
        require_room(40_000_000, 20_000_000, "x")


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "ran",)

    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for write in (
        lambda path: torch.save({"a": Program()}, path),
        lambda path: path.write_bytes(pickle.dumps(Program())),
    ):
        write(tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match="weights cannot be read"):
            load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_head_is_refused() -> None:
    decoder = tiny("llama").model
    with pytest.raises(InputError, match="a LlamaModel has no output head"):
        load(decoder)
