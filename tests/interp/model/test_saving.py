"""Checkpoints on disk: read again with the same weights, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.errors import InputError
from interp.model.saving import require_trainable, require_unused, save_checkpoint
from interp.resolve import load


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    checkpoint = load("organism:cliff")
    folder = save_checkpoint(checkpoint, tmp_path / "deep" / "copy", {"note.json": {"é": 1}})
    assert json.loads((folder / "note.json").read_text(encoding="utf-8")) == {"é": 1}
    again = load(str(folder))
    assert again.fingerprint == checkpoint.fingerprint
    assert again.tokenizer_hash == checkpoint.tokenizer_hash
    AutoModelForCausalLM.from_pretrained(folder)
    assert list(folder.parent.iterdir()) == [folder]
    with pytest.raises(InputError, match="not an empty folder"):
        save_checkpoint(checkpoint, folder)


def test_a_folder_that_cannot_be_written_is_not_there_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load("organism:cliff")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(checkpoint.tokenizer), "save_pretrained", full)
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(checkpoint, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_and_quantised_weights_are_refused(tmp_path: Path) -> None:
    require_unused(tmp_path)
    require_unused(tmp_path / "none")
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="not an empty folder"):
            require_unused(taken)
    checkpoint = load("organism:cliff")
    require_trainable(checkpoint)
    name, weight = next(iter(checkpoint.model.named_parameters()))
    home, _, leaf = name.rpartition(".")
    quantised = torch.nn.Parameter(weight.detach().to(torch.int8), requires_grad=False)
    setattr(checkpoint.model.get_submodule(home), leaf, quantised)
    with pytest.raises(InputError, match="quantised"):
        require_trainable(checkpoint)
