"""Files to a model: config, weights, tokenizer and device of a folder or a hub id.

Which folder a spelling such as `organism:NAME` stands for is known to `interp.resolve`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, logging

from interp.errors import InputError, MechguardError, first_line, one_line
from interp.model.anatomy import Anatomy, read_anatomy
from interp.model.files.config import load_config
from interp.model.files.tokenizer import load_tokenizer, require_known_ids
from interp.model.files.weights import require_room, require_whole, weights_bytes
from interp.model.loaded import LoadedModel
from interp.model.weights import read_from

# Ends of class names of models with a head that they do not hand out.
_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def from_files(
    path: str,
    *,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> LoadedModel:
    """Load a folder or a hub id.

    Args:
        path: of the folder, or a hub id.
        name: what the user calls it; errors and reports do too.
        tokenizer: in place of the one that comes with the files.
        revision: of a hub id.
        dtype: `auto` keeps the checkpoint's own; or float32, bfloat16, float16.
        device: `auto` takes CUDA where there is one.
        device_map: passed to transformers, to spread layers over devices.
        trust_remote_code: run code that comes with the checkpoint.
        quiet: show no progress bar.

    Raises:
        InputError: the source is missing, truncated, or no causal language model.
        UnsupportedModelError: the architecture cannot be measured correctly.
    """
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    begun = time.time()
    config = load_config(path, name=name, revision=revision, trust_remote_code=trust_remote_code)
    arguments = {
        "config": config,
        "revision": revision,
        "dtype": DTYPES[dtype] if isinstance(dtype, str) else dtype,
        "device_map": device_map,
        "trust_remote_code": trust_remote_code,
    }
    _require_weights(path, name, config)
    model = _read_weights(path, name, arguments, quiet)
    if device_map is None:
        model.to(_device(device))
    model.eval()
    tokenizer = tokenizer or load_tokenizer(
        path, revision=revision, trust_remote_code=trust_remote_code
    )
    require_known_ids(tokenizer, _embedded(model), name)
    if device_map is None:
        read_from(model, _folder(path, model, revision), begun)
    commit = getattr(model.config, "_commit_hash", None)
    return LoadedModel(model, tokenizer, read_anatomy(model), name, revision or commit)


def from_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> LoadedModel:
    """A checkpoint of a loaded model, which is put into evaluation mode and otherwise left alone.

    Raises:
        InputError: the model has no output head, or the tokenizer is one of another model.
        UnsupportedModelError: the architecture cannot be measured correctly.
    """
    _require_head(model)
    model.eval()
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    require_known_ids(tokenizer, _embedded(model), name)
    return LoadedModel(model, tokenizer, read_anatomy(model), name)


def blueprint(path: str, *, name: str, revision: str | None = None) -> tuple[Anatomy, Any]:
    """Anatomy and config of a folder or a hub id; no weight is read or allocated.

    Raises:
        InputError: there is no such source, or its config is broken.
        UnsupportedModelError: transformers does not know the model type, or it is no decoder.
    """
    config = load_config(path, name=name, revision=revision)
    return read_anatomy(_on_meta(config, name)), config


def _on_meta(config: Any, name: str) -> PreTrainedModel:
    """The model of a config, without a weight.

    Raises:
        InputError: none can be built from it.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        # Every architecture raises its own types for sizes and names that it cannot use.
        raise InputError(
            f"{name}: no model can be built from the config ({one_line(error)})."
        ) from error
    return model


def _require_weights(path: str, name: str, config: Any) -> None:
    """Check a folder's weights files against the config before anything is allocated."""
    folder = Path(path)
    held = weights_bytes(folder, name) if folder.is_dir() else None
    if held is None or hasattr(config, "quantization_config") or hasattr(config, "auto_map"):
        return
    asked = sum(parameter.numel() for parameter in _on_meta(config, name).parameters())
    require_room(asked, held, name)


def _require_head(model: PreTrainedModel) -> None:
    """Refuse a decoder that predicts no token.

    Raises:
        InputError: it has no output head.
    """
    kind = type(model).__name__
    if model.get_output_embeddings() is None and not kind.endswith(_WITH_HEAD):
        raise InputError(
            f"a {kind} has no output head, so it predicts no next token; load the checkpoint with "
            "AutoModelForCausalLM, or give mechguard.load its folder or hub id."
        )


def _read_weights(path: str, name: str, arguments: dict[str, Any], quiet: bool) -> PreTrainedModel:
    try:
        with _without_bar() if quiet else nullcontext():
            model, report = AutoModelForCausalLM.from_pretrained(
                path, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
            )
    except MechguardError:
        raise
    except OSError as error:
        raise InputError(_not_found(path, name, error)) from error
    except Exception as error:
        # safetensors and transformers raise many types for damaged weights; all mean the same here.
        raise InputError(
            f"{name}: the weights cannot be read ({first_line(error)}); the file may be "
            "truncated, copy or download it again."
        ) from error
    require_whole(model, report, name)
    return model


def _embedded(model: PreTrainedModel) -> int:
    """Rows of the embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


@contextmanager
def _without_bar() -> Iterator[None]:
    """Keep transformers' progress bar away, which would flash by for weights of this size."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # torchrun starts one process a GPU and numbers them here.
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", rank % torch.cuda.device_count())
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; write cpu, cuda or cuda:1.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch finds no CUDA device here; use cpu.")
    return chosen


def _folder(path: str, model: PreTrainedModel, revision: str | None) -> Path:
    """Where the files of a folder or a hub id lie."""
    if Path(path).is_dir():
        return Path(path)
    commit = getattr(model.config, "_commit_hash", None) or revision
    return Path(cached_file(path, "config.json", revision=commit, local_files_only=True)).parent


def _not_found(path: str, name: str, error: Exception) -> str:
    if Path(path).is_dir():
        return (
            f"{name} holds no readable weights ({first_line(error)}); a checkpoint folder needs "
            "model.safetensors beside its config.json."
        )
    return (
        f"{name} is neither a local folder nor a hub id that can be reached ({first_line(error)})."
    )
