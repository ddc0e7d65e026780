"""What a run depends on, as JSON: models, data, scorers and options in full or by digest."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from analyses.shared.code_digest import code_digest, held_in
from interp.model.identity import effective_config, tokenizer_hash
from interp.model.loaded import LoadedModel
from interp.model.weights import weight_digests

_DEEPEST = 12
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def described(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON that differs wherever the value does.

    A checkpoint is its identity and its device, a model its weights and config, data their digest,
    an array its digest, and a function or an object with methods its code and what it holds.

    Args:
        value: such as options, prompts, a scorer, or a mapping of these.
        within: identities of the values that it is held by, from the outermost on.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if len(within) > _DEEPEST or id(value) in within:
        return repr(type(value))
    inner = (*within, id(value))
    if isinstance(value, LoadedModel):
        return value.measured_on
    if isinstance(value, Mapping):
        return _mapping(value, inner)
    if isinstance(value, (Sequence, Set)) and not isinstance(value, bytes):
        if isinstance(digest := getattr(value, "sha256", None), str):
            return {"sha256": digest}
        found = [described(one, inner) for one in value]
        return sorted(found, key=json.dumps) if isinstance(value, Set) else found
    return _of_an_object(value, inner)


def _mapping(value: Mapping[Any, Any], within: tuple[int, ...]) -> Any:
    named = {str(key): described(one, within) for key, one in value.items()}
    if len(named) == len(value):
        return named
    return [[repr(key), described(one, within)] for key, one in value.items()]


def _of_an_object(value: Any, within: tuple[int, ...]) -> Any:
    match value:
        case Enum() | Path() | torch.dtype() | torch.device():
            return str(value)
        case ModuleType():
            return value.__name__
        case bytes():
            return _digest(value)
        case re.Pattern():
            return [
                value.pattern if isinstance(value.pattern, str) else value.pattern.hex(),
                int(value.flags),
            ]
        case np.ndarray() | np.generic():
            return _array(np.asarray(value), within)
        case Tensor():
            array = value.detach().float().cpu().numpy()
            return [str(value.dtype), described(array, within)]
        case PreTrainedTokenizerBase():
            return tokenizer_hash(value)
        case nn.Module():
            return _module(value)
        case _:
            pass
    if isinstance(digest := getattr(value, "sha256", None), str):
        return {"sha256": digest}
    if isinstance(value, type):
        return {"class": value.__qualname__, "code": code_digest(value)}
    if isinstance(value, (FunctionType, MethodType, BuiltinFunctionType, partial)):
        return _function(value, within)
    own = {"class": type(value).__qualname__, "code": code_digest(type(value))}
    return {**own, **{name: described(one, within) for name, one in _held(value).items()}}


def _held(value: Any) -> Mapping[str, Any]:
    """What an object holds: its fields, attributes and slots; how it shows itself without any."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    slots = [
        name
        for base in type(value).__mro__
        for name in _listed(vars(base).get("__slots__", ()))
        if name not in ("__dict__", "__weakref__")
    ]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    held |= getattr(value, "__dict__", None) or {}
    return held or {"value": _ADDRESS.sub("", repr(value))}


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _function(function: Any, within: tuple[int, ...]) -> dict[str, Any]:
    """A function with what it holds: closure and defaults, its object, or further arguments."""
    if isinstance(function, partial):
        return {
            "partial": described(function.func, within),
            "arguments": described([function.args, function.keywords], within),
        }
    name = getattr(function, "__qualname__", "")
    if isinstance(function, MethodType):
        return {
            "method": described(function.__func__, within),
            "of": described(function.__self__, within),
        }
    if isinstance(function, BuiltinFunctionType):
        return {"function": name, "of": described(function.__self__, within)}
    return {
        "function": name,
        "code": code_digest(function),
        "held": [described(held_in(cell), within) for cell in function.__closure__ or ()],
        "defaults": described([function.__defaults__, function.__kwdefaults__], within),
        "attributes": described(
            {key: one for key, one in vars(function).items() if key != "__wrapped__"}, within
        ),
    }


def _array(array: np.ndarray, within: tuple[int, ...]) -> Any:
    if array.dtype.hasobject:
        return [list(array.shape), described(array.reshape(-1).tolist(), within)]
    content = np.ascontiguousarray(array).tobytes()
    return _digest(f"{array.dtype} {array.shape}".encode() + content)


def _module(module: nn.Module) -> dict[str, Any]:
    digests = weight_digests(module)
    config = effective_config(module) if hasattr(module, "config") else None
    plain = {
        name: one
        for name, one in vars(module).items()
        if not name.startswith("_") and isinstance(one, (str, bool, int, float))
    }
    return {
        "class": type(module).__qualname__,
        "code": code_digest(type(module)),
        "weights": digests.exact,
        "adapter": digests.adapter,
        "config": config,
        "held": plain,
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
