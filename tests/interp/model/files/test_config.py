"""Configs of folders: what is refused before anything is built."""

import json
from pathlib import Path
from typing import Any

import pytest
from families import CONFIGS, FAMILIES, tiny

from interp.errors import InputError
from interp.model.files.config import load_config
from interp.resolve import blueprint, load


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_is_what_its_config_says(family: str, tmp_path: Path) -> None:
    """None of the checks objects to a sound config, on disk or in memory."""
    if family not in FAMILIES:
        CONFIGS[family]().save_pretrained(tmp_path)
        assert load_config(str(tmp_path), name="x").model_type == CONFIGS[family]().model_type
        return
    tiny(family).save_pretrained(tmp_path)
    assert load(tmp_path).anatomy == blueprint(str(tmp_path))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_names_of_a_family_are_those_that_are_checked(tmp_path: Path) -> None:
    CONFIGS["gpt2"]().save_pretrained(tmp_path)
    change(tmp_path, n_head=0)
    with pytest.raises(InputError, match="num_attention_heads 0; a whole number from 1"):
        load_config(str(tmp_path), name="x")
    change(tmp_path, n_head=5)
    with pytest.raises(InputError, match="5, which does not divide hidden_size 32"):
        load_config(str(tmp_path), name="x")


def test_a_head_may_have_a_width_of_its_own(tmp_path: Path) -> None:
    CONFIGS["qwen3"]().save_pretrained(tmp_path)
    change(tmp_path, num_attention_heads=6, num_key_value_heads=3, head_dim=8)
    assert blueprint(str(tmp_path))[0].layers[0].heads == 6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", None])
def test_dtypes_that_are_known(dtype: str | None, folder: Path) -> None:
    change(folder, dtype=dtype)
    load_config(str(folder), name="x")


def test_a_million_layers_are_refused_at_once(folder: Path) -> None:
    change(folder, num_hidden_layers=10**6)
    for call in (lambda: load(folder), lambda: blueprint(str(folder))):
        with pytest.raises(InputError, match="num_hidden_layers 1000000; a whole number from 1 to"):
            call()
