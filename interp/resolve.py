"""Sources: every spelling of a checkpoint, and where it is found.

This module alone knows what `organism:NAME` stands for; nothing below it imports it.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp import organisms
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from interp.model import loading
from interp.model.anatomy import Anatomy
from interp.model.files import tokenizer as tokenizer_files
from interp.reading import exists

ORGANISM = "organism:"
_MOST_NAME = 4096  # characters, as of a path on Linux


def load(
    source: str | Path | PreTrainedModel | Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Make a checkpoint.

    Args:
        source: a hub id, a local folder, `organism:NAME`, a loaded `PreTrainedModel`, or a
            `TransformerBridge` (whose Hugging Face model is unwrapped).
        tokenizer: for a loaded model, or to replace the one that comes with the source.
        revision: of a hub id.
        dtype: `auto` keeps the checkpoint's own; or float32, bfloat16, float16.
        device: `auto` takes CUDA where there is one.
        device_map: passed to transformers, to spread layers over devices.
        trust_remote_code: run code that comes with the checkpoint. Off unless asked for.

    Raises:
        InputError: the source is missing, truncated, or no causal language model.
        UnsupportedModelError: the architecture cannot be measured correctly.
    """
    if isinstance(source, (str, Path)):
        loaded = loading.from_files(
            locate(str(source)),
            name=str(source),
            tokenizer=tokenizer,
            revision=revision,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            quiet=str(source).startswith(ORGANISM),
        )
        return Checkpoint.of(loaded)
    model = getattr(source, "original_model", source)
    if model is not source:
        from interp.model.bridge import unwrap

        model, own = unwrap(source)
        tokenizer = tokenizer or own
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"{type(source).__name__} is no checkpoint: give a hub id, a local folder, "
            "organism:NAME, a transformers model, or a TransformerBridge."
        )
    return Checkpoint.of(loading.from_model(model, tokenizer))


def blueprint(source: str, *, revision: str | None = None) -> tuple[Anatomy, Any]:
    """Anatomy and config of a source, on the meta device: no weight is read or allocated.

    Raises:
        InputError: there is no such source, or its config is broken.
        UnsupportedModelError: transformers does not know the model type, or it is no decoder.
    """
    return loading.blueprint(locate(source), name=source, revision=revision)


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a source alone; None where it brings none.

    Raises:
        InputError: there is no such source, or its tokenizer cannot be read.
    """
    return tokenizer_files.load_tokenizer(
        locate(source), revision=revision, trust_remote_code=trust_remote_code
    )


def locate(source: str) -> str:
    """The folder or hub id that a spelling stands for; an organism is trained first if need be.

    Raises:
        InputError: there is no such organism, or the folder holds no checkpoint.
    """
    if source.startswith(ORGANISM):
        return str(organisms.path(source.removeprefix(ORGANISM)))
    if len(source) > _MOST_NAME:
        raise InputError(
            f"the name of a checkpoint has {len(source)} characters and begins with "
            f"{source[:40]!r}; give a hub id, a local folder, or organism:NAME."
        )
    folder = Path(source)
    with suppress(RuntimeError):  # there is no user of that name
        folder = folder.expanduser()
    looks_local = source.startswith((".", "/", "~")) or exists(folder)
    if looks_local and not exists(folder / "config.json"):
        raise InputError(
            f"{source} has no config.json; give the folder of a transformers checkpoint, a hub id, "
            "or organism:NAME."
        )
    return str(folder) if looks_local else source
