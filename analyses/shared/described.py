"""What a run depends on, as JSON: models, data, scorers and options in full or by digest."""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from interp.model.identity import tokenizer_hash
from interp.model.loaded import LoadedModel
from interp.model.weights import weight_digests

_DEEPEST = 12
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def described(value: Any, depth: int = 0) -> Any:
    """A value as JSON that differs wherever the value does.

    A checkpoint is its identity and its device, a model its weights, data their digest, an array
    its digest, and a function or an object with methods its code and what it holds.

    Args:
        value: such as options, prompts, a scorer, or a mapping of these.
        depth: of the value within another.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth > _DEEPEST:
        return repr(type(value))
    if isinstance(value, LoadedModel):
        return {**value.identity.as_json(), "device": value.device.type}
    if isinstance(value, Mapping):
        return {str(key): described(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (Sequence, Set)) and not isinstance(value, bytes):
        if isinstance(digest := getattr(value, "sha256", None), str):
            return {"sha256": digest}
        given = sorted(value, key=repr) if isinstance(value, Set) else value
        return [described(one, depth + 1) for one in given]
    return _of_an_object(value, depth)


def _of_an_object(value: Any, depth: int) -> Any:
    match value:
        case Enum() | Path() | torch.dtype() | torch.device() | type():
            return str(value)
        case bytes():
            return _digest(value)
        case np.ndarray() | np.generic():
            return _digest(
                f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
            )
        case Tensor():
            return described(value.detach().float().cpu().numpy(), depth + 1)
        case PreTrainedTokenizerBase():
            return tokenizer_hash(value)
        case nn.Module():
            return {"class": type(value).__qualname__, "weights": weight_digests(value).exact}
        case _:
            pass
    if isinstance(digest := getattr(value, "sha256", None), str):
        return {"sha256": digest}
    if callable(value) and hasattr(value, "__code__"):
        return _function(value, depth)
    if is_dataclass(value):
        held: Mapping[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    else:
        held = getattr(value, "__dict__", None) or {"value": _ADDRESS.sub("", repr(value))}
    own = {"class": type(value).__qualname__, "code": _code(type(value))}
    return {**own, **{name: described(one, depth + 1) for name, one in held.items()}}


def _function(function: Callable[..., Any], depth: int) -> dict[str, Any]:
    closure = getattr(function, "__closure__", None) or ()
    return {
        "function": getattr(function, "__qualname__", ""),
        "code": _code(function),
        "held": [described(cell.cell_contents, depth + 1) for cell in closure],
        "defaults": described(getattr(function, "__defaults__", None), depth + 1),
    }


def _code(defined: Any) -> str:
    """A digest of the source of a function or class, or of compiled code where there is none."""
    try:
        return _digest(inspect.getsource(defined).encode())
    except (OSError, TypeError):
        code = getattr(defined, "__code__", None)
        return _digest(b"" if code is None else code.co_code + repr(code.co_consts).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
