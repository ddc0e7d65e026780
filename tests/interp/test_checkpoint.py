"""Loading checkpoints, and what is said when it does not work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from families import FAMILIES, tiny
from refused import bypassing
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

import interp
from interp import Checkpoint, InputError, MechguardError, UnsupportedModelError
from interp.model.loaded import vocabulary_size
from interp.resolve import blueprint

IDS = torch.tensor([[5, 9, 33, 12, 80]])


def tokenizer(template: str | None = None, bos: bool = False) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "a", "b", "c"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    made.chat_template = template
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = checkpoint.model(IDS).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder_gives_the_same_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    loaded = interp.load(tmp_path)
    assert torch.equal(logits(loaded), logits(interp.load(model)))
    assert loaded.anatomy == interp.load(model).anatomy
    assert loaded.fingerprint == interp.load(model).fingerprint
    assert not loaded.model.training
    assert (loaded.name, loaded.revision) == (str(tmp_path), None)
    assert vocabulary_size(loaded) == 97


def test_parts_of_a_checkpoint(folder: Path) -> None:
    checkpoint = interp.load(str(folder))
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer("a b").input_ids == [3, 4]
    assert checkpoint.embedding is checkpoint.model.model.embed_tokens
    assert checkpoint.final_norm is checkpoint.model.model.norm
    assert list(checkpoint.layers) == list(checkpoint.model.model.layers)
    assert (checkpoint.device, checkpoint.dtype) == (torch.device("cpu"), torch.float32)


def test_a_loaded_model_stays_the_callers_own() -> None:
    model = tiny("llama").train()
    checkpoint = interp.load(model, tokenizer=tokenizer())
    assert checkpoint.model is model
    assert checkpoint.name == "LlamaForCausalLM"
    assert checkpoint.tokenizer is not None


def test_data_types(folder: Path) -> None:
    assert interp.load(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert interp.load(folder, dtype=torch.float16).dtype == torch.float16
    assert interp.load(folder, dtype="auto").dtype == torch.float32
    tiny("llama", torch.bfloat16).save_pretrained(folder)
    assert interp.load(folder).dtype == torch.bfloat16
    assert interp.load(folder, dtype="float32").dtype == torch.float32


def test_without_a_tokenizer(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    checkpoint = interp.load(tmp_path)
    assert checkpoint.tokenizer is None
    assert checkpoint.tokenizer_hash is None
    own = tokenizer()
    assert interp.load(tmp_path, tokenizer=own).tokenizer is own


def test_a_blueprint_reads_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    anatomy, config = blueprint(str(folder))
    assert anatomy == interp.load(tiny("llama")).anatomy
    assert config.model_type == "llama"


def test_an_organism_is_loaded_without_a_progress_bar(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(logging, "is_progress_bar_enabled", lambda: True)
    monkeypatch.setattr(logging, "disable_progress_bar", lambda: calls.append("off"))
    monkeypatch.setattr(logging, "enable_progress_bar", lambda: calls.append("on"))
    interp.load(folder)
    assert calls == []
    interp.load("organism:bb-plain")
    assert calls == ["off", "on"]


def test_the_fingerprint_is_of_the_weights(folder: Path) -> None:
    first = interp.load(folder)
    assert len(first.fingerprint) == 16
    assert interp.load(folder).fingerprint == first.fingerprint
    assert interp.load(folder, dtype="bfloat16").fingerprint != first.fingerprint
    changed = interp.load(folder)
    with torch.no_grad():
        changed.layers[2].mlp.up_proj.weight[7, 3] += 1e-3
    assert changed.fingerprint != first.fingerprint


def test_the_fingerprint_of_offloaded_weights_is_that_of_the_same_at_hand(
    folder: Path, tmp_path: Path
) -> None:
    whole = interp.load(folder)
    model = interp.load(folder).model
    accelerate.disk_offload(model, tmp_path / "offloaded", execution_device="cpu")
    there = interp.load(model, tokenizer=whole.tokenizer)
    assert all(weight.is_meta for weight in model.parameters())
    assert there.fingerprint == whole.fingerprint
    empty = interp.load(tiny("llama").to("meta"))
    with pytest.raises(InputError, match="meta device and has no values"):
        _ = empty.fingerprint


def test_the_tokenizer_hash() -> None:
    model = tiny("llama")

    def of(made: PreTrainedTokenizerFast) -> str | None:
        return interp.load(model, tokenizer=made).tokenizer_hash

    plain = of(tokenizer())
    assert plain is not None and len(plain) == 16
    assert plain == of(tokenizer())
    assert len({plain, of(tokenizer(template="{{ messages }}")), of(tokenizer(bos=True))}) == 3


def break_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 7)


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no_such_family"}')


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", ')


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def other_shapes(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))


def missing_layer(folder: Path) -> None:
    config = folder / "config.json"
    text = config.read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
    config.write_text(text)


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


FAULTS: list[tuple[Callable[[Path], None], type[MechguardError], str]] = [
    (break_weights, InputError, "needs model.safetensors"),
    (truncate_weights, InputError, "truncated"),
    (shorten_header, InputError, "truncated"),
    (unknown_type, UnsupportedModelError, "does not know this model type"),
    (no_config, InputError, "has no config.json"),
    (broken_config, InputError, "config"),
    (no_folder, InputError, "config.json"),
    (other_shapes, InputError, "weights"),
    (missing_layer, InputError, "weights"),
    (broken_tokenizer, InputError, "tokenizer"),
]


@pytest.mark.parametrize(("harm", "kind", "message"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_faults_are_one_clear_sentence(
    harm: Callable[[Path], None], kind: type[MechguardError], message: str, folder: Path
) -> None:
    harm(folder)
    with pytest.raises(kind, match=message) as caught:
        interp.load(folder)
    check_sentence(caught.value, str(folder))
    assert caught.value.exit_code == (3 if kind is UnsupportedModelError else 2)


def check_sentence(error: MechguardError, named: str) -> None:
    text = str(error)
    assert named in text
    assert "\n" not in text and text.endswith(".")


@pytest.mark.parametrize("source", ["nobody/no-such-model-here", "no-such-folder/at/all"])
def test_a_hub_id_that_cannot_be_reached(source: str) -> None:
    with pytest.raises(InputError, match="neither a local folder nor a hub id") as caught:
        interp.load(source)
    check_sentence(caught.value, source)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float8"}, "dtype 'float8' is not one of auto, float32, bfloat16, float16"),
        ({"device": "tpu9"}, "device 'tpu9' is unknown"),
        ({"device": "no such"}, "device 'no such' is unknown"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        interp.load(folder, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_here(folder: Path) -> None:
    with pytest.raises(InputError, match="finds no CUDA device"):
        interp.load(folder, device="cuda")


@pytest.mark.parametrize("source", [3, {"model": 1}, torch.nn.Linear(2, 2)])
def test_what_is_no_checkpoint(source: object) -> None:
    with pytest.raises(InputError, match=f"{type(source).__name__} is no checkpoint"):
        interp.load(source)


@pytest.mark.parametrize("kind", ["bloom", "mpt", "gptj"])
def test_families_outside_the_interface_still_load(kind: str, tmp_path: Path) -> None:
    bypassing(kind).save_pretrained(tmp_path)
    assert not interp.load(tmp_path).anatomy.interface


def test_the_published_stories_model(reference: Callable[[str], Path]) -> None:
    """Its greedy continuation is published with it."""
    folder = reference("models/stories260K-hf")
    checkpoint = interp.load(folder)
    assert checkpoint.tokenizer is not None
    anatomy = checkpoint.anatomy
    assert (anatomy.parameters, anatomy.n_layers, anatomy.width) == (260_032, 5, 64)
    assert (anatomy.layers[0].heads, anatomy.layers[0].kv_heads) == (8, 4)
    wanted = (folder / "expected_greedy.txt").read_text()
    start = torch.tensor([[checkpoint.tokenizer.bos_token_id]])
    ids = checkpoint.model.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=200, do_sample=False
    )
    text = checkpoint.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert len(wanted) > 400
    assert text.strip().startswith(wanted.strip()[:400])
