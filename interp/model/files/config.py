"""A checkpoint's config, checked before anything is built or allocated from it.

Sizes of zero, negative ones, and ones of which no published model comes near are refused with what
the config says: transformers would divide by them, or build as many layers as it is told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from interp.errors import InputError, UnsupportedModelError, one_line
from interp.reading import exists, read_settings, require_file

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
)
_READ = {".json", ".safetensors", ".bin", ".jinja", ".model", ".txt"}
_DTYPES = ("float32", "float", "bfloat16", "float16", "half", "float64", "auto")


@dataclass(frozen=True)
class _Size:
    """What a field of a config may be: whole numbers from `least` to `most`, or null."""

    most: int
    least: int = 1
    optional: bool = True


_SIZES: Mapping[str, _Size] = {
    "num_hidden_layers": _Size(1_000, optional=False),
    "hidden_size": _Size(1_000_000, optional=False),
    "num_attention_heads": _Size(10_000, optional=False),
    "num_key_value_heads": _Size(10_000),
    "head_dim": _Size(100_000),
    "intermediate_size": _Size(10_000_000),
    "vocab_size": _Size(10_000_000, optional=False),
    "max_position_embeddings": _Size(1_000_000_000),
    "num_experts": _Size(100_000, 0),
    "num_local_experts": _Size(100_000, 0),
    "n_routed_experts": _Size(100_000, 0),
    "num_experts_per_tok": _Size(100_000, 0),
    "moe_intermediate_size": _Size(10_000_000, 0),
}


def load_config(
    path: str, *, name: str, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The config of a folder or a hub id; no weights are read.

    Raises:
        InputError: there is no such source, or its config is broken.
        UnsupportedModelError: transformers does not know the model type, or it is no decoder.
    """
    raw = _read_folder(Path(path)) if exists(Path(path)) else {}
    _require_sizes(raw, name)
    try:
        config = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        # Configs validate themselves, each in its own way; all that they raise means the same.
        if isinstance(error, ValueError) and any(
            words in str(error) for words in ("model type", "trust_remote_code")
        ):
            raise UnsupportedModelError(
                f"{name}: transformers does not know this model type; update transformers, or "
                "pass trust_remote_code if the checkpoint brings its own code."
            ) from error
        if isinstance(error, OSError) and not raw:
            raise InputError(
                f"{name} is neither a local folder nor a hub id that can be reached "
                f"({one_line(error)})."
            ) from error
        raise InputError(f"{name}: the config cannot be read ({one_line(error)}).") from error
    own_code = trust_remote_code and hasattr(config, "auto_map")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not own_code:
        raise UnsupportedModelError(
            f"{name}: {config.model_type} is no causal language model; mechguard measures "
            "decoders that predict the next token."
        )
    text = config.get_text_config(decoder=True)
    _require_fields(lambda field: getattr(text, field, None), name, raw={})
    return config


def _read_folder(folder: Path) -> dict[str, Any]:
    """The raw config of a folder whose files can all be read.

    Raises:
        InputError: one is a pipe, a device or a folder, or a file of settings is no JSON object.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ and file.exists():
            require_file(file, 2**63)
    found = {}
    for name in _SETTINGS:
        if (folder / name).exists():
            try:
                found[name] = read_settings(folder / name)
            except InputError as error:
                if name != "config.json":
                    raise
                raise InputError(f"{folder}: the config cannot be read: {error}") from error
    ends = found.get("generation_config.json", {}).get("eos_token_id")
    every = ends if isinstance(ends, list) else [ends]
    if not all(one is None or _is_whole(one) for one in every):
        raise InputError(
            f"{folder / 'generation_config.json'} has eos_token_id {ends!r:.40}; it is a token id, "
            "or a list of them."
        )
    return found.get("config.json", {})


def _require_sizes(raw: Mapping[str, Any], name: str) -> None:
    """Check a config as it is written, under the names that its model type gives its fields."""
    nested = raw.get("text_config")
    written = nested if isinstance(nested, dict) else raw
    kind = written.get("model_type", raw.get("model_type"))
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    names = getattr(CONFIG_MAPPING[kind], "attribute_map", {}) if known else {}
    for field, size in _SIZES.items():
        for spelling in {field, names.get(field, field)}:
            if spelling in written and written[spelling] is None and not size.optional:
                raise InputError(
                    f"{name}: the config says {spelling} null; give the config that belongs to the "
                    "weights."
                )

    def value(field: str) -> Any:
        return written.get(names.get(field, field), written.get(field))

    _require_fields(value, name, raw=written)
    for field in ("dtype", "torch_dtype"):
        _require_dtype(written.get(field), field, name, quantised="quantization_config" in raw)


def _require_fields(value: Callable[[str], Any], name: str, raw: Mapping[str, Any]) -> None:
    for field, size in _SIZES.items():
        given = value(field)
        for one in given if isinstance(given, list) and given else [given]:
            if one is not None and not (_is_whole(one) and size.least <= one <= size.most):
                raise InputError(
                    f"{name}: the config says {field} {one!r:.40}; a whole number from "
                    f"{size.least} to {size.most:,} belongs there, so give the config that "
                    "belongs to the weights."
                )
    heads, groups, width = map(value, ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if _is_whole(heads) and _is_whole(groups) and heads % groups:
        raise InputError(
            f"{name}: the config says num_attention_heads {heads}, which num_key_value_heads "
            f"{groups} does not divide; give the config that belongs to the weights."
        )
    # A head's width of its own, or the parts of one, need not divide the model's.
    own = any("head_dim" in key and raw[key] is not None for key in raw)
    if raw and not own and _is_whole(heads) and _is_whole(width) and width % heads:
        raise InputError(
            f"{name}: the config says num_attention_heads {heads}, which does not divide "
            f"hidden_size {width}; give the config that belongs to the weights."
        )


def _require_dtype(given: Any, field: str, name: str, quantised: bool) -> None:
    if given is None or isinstance(given, dict):  # a dtype for each part of a multimodal model
        return
    known = isinstance(given, str) and (
        given in _DTYPES or (quantised and isinstance(getattr(torch, given, None), torch.dtype))
    )
    if not known:
        raise InputError(
            f"{name}: the config says {field} {given!r:.40}; it is one of float32, bfloat16, "
            "float16 and float64."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
