"""An organism's folder: weights, tokenizer, and the truth file that is about them."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from interp.errors import CheckError, InputError
from interp.model.artifacts import versions
from interp.organisms.recipes import Recipe
from interp.reading import read_settings, require_file

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
TRUTH = "truth.json"


def round_weights(model: Any, storage: str) -> None:
    """Round the weights to what they will be on disk."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, storage)))


def load_model(folder: Path, attention: str) -> Any:
    """The model in float32, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    with _quiet():
        return AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=attention, dtype=torch.float32, local_files_only=True
        ).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars: one tensor a bar is no progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def write_folder(
    folder: Path, chosen: Recipe, model: Any, seed: int, measured: dict[str, Any]
) -> dict[str, Any]:
    """Write a trained model and its truth file into an existing folder; returns the latter."""
    from transformers import GenerationConfig

    shape = chosen.architecture
    stored = {
        name: tensor.to(getattr(torch, chosen.storage))
        for name, tensor in model.state_dict().items()
    }
    with _quiet():
        # The config keeps float32, so that loading computes with what was measured.
        model.save_pretrained(folder, state_dict=stored)
    (folder / WEIGHTS).chmod(0o644)
    GenerationConfig(
        bos_token_id=shape.bos, eos_token_id=shape.eos, pad_token_id=shape.pad
    ).save_pretrained(folder)
    chosen.tokenizer().save_pretrained(folder)
    content = {
        "format_version": FORMAT_VERSION,
        "name": chosen.name,
        "summary": chosen.summary,
        **chosen.facts(seed),
        "recipe": {
            "fingerprint": chosen.fingerprint(seed),
            "architecture": asdict(shape),
            "schedule": asdict(chosen.schedule),
        },
        "seed": seed,
        "steps": chosen.schedule.steps,
        "storage": chosen.storage,
        "parameters": sum(p.numel() for p in model.parameters()),
        "expected": {k: list(bounds) for k, bounds in chosen.expected.items()},
        "measured": measured,
        "twins": chosen.twins,
        "weights_sha256": _sha256(folder / WEIGHTS),
        "versions": versions(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / TRUTH).write_text(text + "\n", encoding="utf-8")
    return content


def read_truth(folder: Path) -> dict[str, Any]:
    """The content of a folder's truth file.

    Raises:
        InputError: it is missing, no JSON, or of another version.
    """
    try:
        require_file(folder / TRUTH)
    except InputError as error:
        raise InputError(f"{folder} has no {TRUTH}; it is no organism's folder.") from error
    content = read_settings(folder / TRUTH)
    if content.get("format_version") != FORMAT_VERSION:
        found = str(content.get("format_version"))[:40]
        raise InputError(
            f"{folder / TRUTH} has format version {found}; this version reads {FORMAT_VERSION}."
        )
    return content


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"{file.parent} has no {file.name}; train the organism again.")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def require_own_weights(folder: Path) -> None:
    """Refuse weights that a folder's truth file is not about.

    Raises:
        InputError: there is no readable truth file, or there are no weights.
        CheckError: their hash is another one.
    """
    content = read_truth(folder)
    found = _sha256(folder / WEIGHTS)
    if found != content["weights_sha256"]:
        raise CheckError(
            f"The weights in {folder} have sha256 {found[:12]}…, but its truth file is about "
            f"{content['weights_sha256'][:12]}…; train the organism again."
        )
