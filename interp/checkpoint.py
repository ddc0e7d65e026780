"""A checkpoint: model, tokenizer and anatomy, from wherever it comes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from interp.anatomy import Anatomy, read_anatomy
from interp.errors import InputError, MechguardError, UnsupportedModelError, first_line
from interp.modules import decoder_layers, final_norm, text_config
from interp.sites import Site

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Checkpoint:
    """Model + tokenizer + anatomy.

    `name` is what the user asked for; `revision` the hub commit, if any. The model is the user's
    own object: nothing in it is renamed or replaced.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    anatomy: Anatomy
    name: str
    revision: str | None = None

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        return decoder_layers(self.model)

    @cached_property
    def decoder(self) -> nn.Module:
        """The module that embeds ids and runs the layers, without the unembedding."""
        return next(m for m in self.model.modules() if any(c is self.layers for c in m.children()))

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        module: nn.Module = self.model.get_input_embeddings()
        return module

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer.

        Raises:
            UnsupportedModelError: there is none.
        """
        module = final_norm(self.model)
        if module is None:
            raise UnsupportedModelError(
                f"{self.anatomy.architecture} has no norm after its last layer that mechguard knows"
            )
        return module

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.embedding.get_parameter("weight").device

    @property
    def dtype(self) -> torch.dtype:
        """Of the embedding's weights."""
        return self.embedding.get_parameter("weight").dtype

    def require(self, site: Site) -> None:
        """Check that the checkpoint has a site.

        Raises:
            InputError: naming what was asked for and what exists.
        """
        if site.layer is None:
            return
        if not 0 <= site.layer < self.anatomy.n_layers:
            raise InputError(
                f"there is no layer {site.layer}: {self.name} has layers 0 to "
                f"{self.anatomy.n_layers - 1}."
            )
        here = self.anatomy.layers[site.layer]
        if site.name not in here.sites:
            raise InputError(
                f"layer {site.layer} of {self.name} ({here.attention} attention) has no site "
                f"{site.name!r}; it has {', '.join(here.sites)}."
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes and values of all weights, 16 hex digits.

        A weight of more than 65,536 elements enters by an even sample of them and its sum, so that
        a large checkpoint costs seconds.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(_sample(_offloaded(self.model, name) if tensor.is_meta else tensor))
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 over the vocabulary, its post-processing and the chat template, 16 hex digits."""
        if self.tokenizer is None:
            return None
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else str(sorted(self.tokenizer.get_vocab()))
        template = getattr(self.tokenizer, "chat_template", None)
        return hashlib.sha256(f"{text}{template}".encode()).hexdigest()[:16]

    def bridge(self) -> Any:
        """A `TransformerBridge` on a copy of this model, for circuits work.

        The bridge renames parameters and forces eager attention, so it gets weights of its own.
        """
        from interp.bridge import to_bridge

        return to_bridge(self)


def _offloaded(model: PreTrainedModel, name: str) -> torch.Tensor:
    """A weight that accelerate keeps in memory or on disk between forward passes.

    Raises:
        InputError: the weight has no values anywhere.
    """
    from accelerate.utils import align_module_device

    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if not hasattr(module, "_hf_hook"):
        raise InputError(
            f"{name} lies on the meta device and has no values; load the checkpoint's weights."
        )
    with align_module_device(module, "cpu"):
        tensor: torch.Tensor = getattr(module, own).detach()
    return tensor


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    if flat.numel() > 65536:
        step = flat.numel() // 65536
        total = flat.double().sum() if flat.is_floating_point() else flat.sum()
        flat = torch.cat([flat[::step].double(), total.double()[None]])
    data: bytes = flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return data


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
        return _load_files(
            str(source), tokenizer, revision, dtype, device, device_map, trust_remote_code
        )
    model = getattr(source, "original_model", source)
    if model is not source:
        from interp.bridge import unwrap

        model, own = unwrap(source)
        tokenizer = tokenizer or own
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"{type(source).__name__} is no checkpoint: give a hub id, a local folder, "
            "organism:NAME, a transformers model, or a TransformerBridge."
        )
    model.eval()
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Checkpoint(model, tokenizer, read_anatomy(model), name)


def load_config(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[str, Any]:
    """The resolved path or hub id of a source, and its config; no weights are read.

    Raises:
        InputError: there is no such source, or its config is broken.
        UnsupportedModelError: transformers does not know the model type, or it is no decoder.
    """
    path = _resolve(source)
    try:
        config = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    except ValueError as error:
        if "model type" in str(error) or "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"{source}: transformers does not know this model type; update transformers, or "
                "pass trust_remote_code if the checkpoint brings its own code."
            ) from error
        raise InputError(f"{source}: the config cannot be read ({first_line(error)}).") from error
    except (OSError, TypeError) as error:
        if Path(path, "config.json").exists():
            raise InputError(
                f"{source}: the config cannot be read ({first_line(error)})."
            ) from error
        raise InputError(_not_found(source, error)) from error
    own_code = trust_remote_code and hasattr(config, "auto_map")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not own_code:
        raise UnsupportedModelError(
            f"{source}: {config.model_type} is no causal language model; mechguard measures "
            "decoders that predict the next token."
        )
    return path, config


def blueprint(source: str, *, revision: str | None = None) -> tuple[Anatomy, Any]:
    """Anatomy and config of a source, on the meta device: no weight is read or allocated."""
    _, config = load_config(source, revision=revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return read_anatomy(model), config


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a source alone; None where it brings none.

    Raises:
        InputError: it cannot be read.
    """
    return _tokenizer(_resolve(source), revision, trust_remote_code)


def _load_files(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    revision: str | None,
    dtype: str | torch.dtype,
    device: str | torch.device,
    device_map: str | dict[str, Any] | None,
    trust_remote_code: bool,
) -> Checkpoint:
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    path, config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
    arguments = {
        "config": config,
        "revision": revision,
        "dtype": DTYPES[dtype] if isinstance(dtype, str) else dtype,
        "device_map": device_map,
        "trust_remote_code": trust_remote_code,
    }
    model = _read_weights(source, path, arguments)
    if device_map is None:
        model.to(_device(device))
    model.eval()
    tokenizer = tokenizer or _tokenizer(path, revision, trust_remote_code)
    commit = getattr(model.config, "_commit_hash", None)
    return Checkpoint(model, tokenizer, read_anatomy(model), source, revision or commit)


def _read_weights(source: str, path: str, arguments: dict[str, Any]) -> PreTrainedModel:
    try:
        with _without_bar() if source.startswith("organism:") else nullcontext():
            model, report = AutoModelForCausalLM.from_pretrained(
                path, output_loading_info=True, **arguments
            )
    except MechguardError:
        raise
    except OSError as error:
        raise InputError(_not_found(source, error)) from error
    except Exception as error:
        # safetensors and transformers raise many types for damaged weights; all mean the same here.
        raise InputError(
            f"{source}: the weights cannot be read ({first_line(error)}); the file may be "
            "truncated, copy or download it again."
        ) from error
    # transformers only warns, and fills what is missing with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{source}: the weights lack {len(missing)} of the tensors that the config asks for, "
            f"first {missing[0]}; the two do not belong together, copy or download them again."
        )
    return model


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


def _tokenizer(
    path: str, revision: str | None, trust_remote_code: bool
) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer, or None where it brings none (a model of token ids)."""
    folder = Path(path)
    if folder.is_dir() and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: the tokenizer cannot be read ({first_line(error)}).") from error
    return tokenizer


def _resolve(source: str) -> str:
    """Turn `organism:NAME` into its folder; leave hub ids and folders as they are."""
    if source.startswith("organism:"):
        from interp import organisms

        return str(organisms.path(source.removeprefix("organism:")))
    looks_local = source.startswith((".", "/", "~")) or Path(source).exists()
    if looks_local and not (Path(source).expanduser() / "config.json").exists():
        raise InputError(
            f"{source} has no config.json; give the folder of a transformers checkpoint, a hub id, "
            "or organism:NAME."
        )
    return str(Path(source).expanduser()) if looks_local else source


def _not_found(source: str, error: Exception) -> str:
    if Path(source).is_dir():
        return (
            f"{source} holds no readable weights ({first_line(error)}); a checkpoint folder needs "
            "model.safetensors beside its config.json."
        )
    return (
        f"{source} is neither a local folder nor a hub id that can be reached "
        f"({first_line(error)})."
    )


def vocabulary_size(checkpoint: Checkpoint) -> int:
    """Rows of the embedding."""
    return int(text_config(checkpoint.model.config).vocab_size)
