"""Digests of a model's weights: every byte once, and again only when something has changed.

A digest costs a pass over all weights. It is kept with the model, and for a checkpoint on disk in
the user's cache, sealed, under the paths, sizes, times and inodes of its files. Before a kept
digest is used, every tensor's version counter, data pointer and a strided checksum are compared
with those that it was made at.
"""

import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.resume.files import write_atomically
from interp.resume.sealed import read_sealed, sealed_json
from interp.resume.sealed_tensors import tensor_bytes

SAMPLED = 32768
"""Elements of a tensor that its checksum and its rounded digest are of, about, evenly spread."""

_RUN = 64

REMEMBERED_FROM = 16 * 2**20
"""Bytes of weights from which a digest is kept on disk; below, it is as soon made as read."""

ROUNDED_TO = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_SUFFIXES = (".safetensors", ".bin", ".gguf")
# Under a layer that adapters act on: what it was before, which is of the model without them.
_BEFORE = ("base_layer", "original_module", "token_adapter")
_FORMAT = 2

Marks = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class WeightDigests:
    """SHA-256 digests, 64 hex digits each.

    Attributes:
        exact: over name, dtype, shape and every byte of every tensor of the model.
        rounded: over an even sample of every tensor, rounded to a dtype; so that weights can be
            recognised in another dtype.
        adapter: over the tensors and settings of adapters in force; None where there are none.
    """

    exact: str
    rounded: Mapping[str, str]
    adapter: str | None = None


@dataclass
class _Watched:
    """What is known of a model: its marks, its digests at those, and the files it was read from."""

    marks: Marks
    digests: WeightDigests | None = None
    files: str | None = None


_known: "weakref.WeakKeyDictionary[nn.Module, _Watched]" = weakref.WeakKeyDictionary()


def weight_digests(model: nn.Module) -> WeightDigests:
    """The digests of a model's weights as they are now.

    A write through `.data` that leaves all of a tensor's sampled elements (`SAMPLED`) as they were
    is not noticed once a digest was made.

    Raises:
        InputError: a weight lies on the meta device and has no values.
    """
    watched, marks = _known.get(model), _marks(model)
    fresh = watched is None or watched.marks != marks
    if watched is None or fresh:
        watched = _known[model] = _Watched(marks)
    if watched.digests is None:
        watched.digests = _recall(watched.files)
    if watched.digests is None:
        watched.digests = _digests(model)
        _keep(watched.files, watched.digests)
    return watched.digests


def read_from(model: nn.Module, folder: Path, since: float) -> None:
    """Say that a model was just read from the files of a folder, and not changed since.

    Args:
        model: as it was read.
        folder: with its weights.
        since: when reading began, in seconds of the epoch; of files that changed after that it is
            not known what was read.
    """
    watched = _known[model] = _Watched(_marks(model))
    size = sum(tensor.nbytes for _, tensor in _tensors(model))
    # The weights of adapters, and of what they act on, may come from other folders.
    if size >= REMEMBERED_FROM and not adapted_layers(model):
        watched.files = _files_key(model, folder, since)


def unadapted(name: str, adapted: Mapping[str, nn.Module]) -> str | None:
    """The name that a weight has in the model without adapters; None for a part of an adapter.

    Args:
        name: in the state of the model.
        adapted: of `adapted_layers`.
    """
    parts, kept = name.split("."), list[str]()
    for place, part in enumerate(parts):
        if ".".join(parts[:place]) not in adapted:
            kept.append(part)
        elif part not in _BEFORE:
            return None
    return ".".join(kept)


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that adapters of peft act on, by name, whether or not an adapter is in force."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "active_adapters") and any(hasattr(module, one) for one in _BEFORE)
    }


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return sorted(model.state_dict().items())


def _marks(model: nn.Module) -> Marks:
    """What tells in a moment whether a weight has changed."""
    tensors = [
        (name, str(tensor.dtype), tuple(tensor.shape), *_mark(tensor))
        for name, tensor in _tensors(model)
    ]
    return (*tensors, *adapters_in_force(model))


def _mark(tensor: Tensor) -> tuple[int, int, str]:
    if tensor.is_meta:
        return 0, 0, ""
    counted = 0 if tensor.is_inference() else tensor._version
    return counted, tensor.data_ptr(), _hash(_sample(tensor))


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    if flat.numel() <= SAMPLED:
        return flat
    # Runs of neighbours, because single elements so far apart cost as much as reading all.
    step = flat.numel() // (SAMPLED // _RUN)
    return flat[: flat.numel() // step * step].view(-1, step)[:, :_RUN]


def _digests(model: nn.Module) -> WeightDigests:
    base: list[tuple[str, Tensor]] = []
    adapted: list[tuple[str, Tensor]] = []
    active = adapters_in_force(model)
    names = {name for _, every, _ in active for name in every}
    layers = adapted_layers(model)
    for name, tensor in _tensors(model):
        held = _offloaded(model, name) if tensor.is_meta else tensor
        plain = unadapted(name, layers)
        if plain is not None:
            base.append((plain, held))
        elif names & set(name.split(".")):
            adapted.append((name, held))
    rounded = {name: hashlib.sha256() for name in ROUNDED_TO}
    for name, tensor in base:
        for to, digest in rounded.items():
            digest.update(name.encode())
            if tensor.is_floating_point():
                digest.update(tensor_bytes(_sample(tensor).to(ROUNDED_TO[to])))
    found = None
    if active:
        found = hashlib.sha256(f"{active}{_exact(adapted)}".encode()).hexdigest()
    return WeightDigests(
        _exact(base), {to: digest.hexdigest() for to, digest in rounded.items()}, found
    )


def _exact(tensors: list[tuple[str, Tensor]]) -> str:
    """One digest of all; tensors that share their memory are read once."""
    places = [(t.data_ptr(), t.dtype, t.shape, t.stride()) for _, t in tensors]
    distinct = {place: t for place, (_, t) in zip(places, tensors, strict=True)}
    # hashlib lets other threads run meanwhile.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashed = dict(zip(distinct, pool.map(_hash, distinct.values()), strict=True))
    lines = [
        f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashed[place]}"
        for place, (name, tensor) in zip(places, tensors, strict=True)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def adapters_in_force(model: nn.Module) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """Layers whose adapters (of peft) act beside the weights: (layer, adapters, settings).

    An adapter that is switched off, or merged into the weights, is not in force.
    """
    found, layers = [], adapted_layers(model)
    for name, module in layers.items():
        state: Any = module
        if state.disable_adapters or getattr(state, "merged", False):
            continue
        # A wrapper of a layer that is adapted is told by that layer.
        parts = [getattr(state, one, ()) for one in state.adapter_layer_names]
        active = tuple(one for one in state.active_adapters if any(one in part for part in parts))
        if active:
            plain = unadapted(f"{name}.base_layer", layers) or name
            settings = json.dumps(_settings(state, active), sort_keys=True)
            found.append((plain, active, settings))
    return tuple(found)


def _settings(layer: Any, active: tuple[str, ...]) -> dict[str, Any]:
    """What decides how adapters act beside their weights, such as their scaling."""
    found: dict[str, Any] = {}
    for name in (*layer.other_param_names, "is_feedforward"):
        value = getattr(layer, name, None)
        by_adapter = value if isinstance(value, Mapping) else dict.fromkeys(active, value)
        plain = {one: _plain(by_adapter[one]) for one in active if one in by_adapter}
        if any(value is not None for value in plain.values()):
            found[name] = plain
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _hash(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, bool, int, float)) else None


def _offloaded(model: nn.Module, name: str) -> Tensor:
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
        tensor: Tensor = getattr(module, own).detach()
    return tensor


def _files_key(model: nn.Module, folder: Path, since: float) -> str | None:
    """What the digest of a checkpoint on disk is kept under; None where its files are not seen."""
    files = []
    with suppress(OSError):
        for path in sorted(_weight_files(folder)):
            seen = path.stat()
            if seen.st_ctime >= since:
                return None
            times = (seen.st_mtime_ns, seen.st_ctime_ns)  # the first can be set, as by rsync
            files.append((str(path.absolute()), seen.st_size, *times, seen.st_ino))
    if not files:
        return None
    dtypes = sorted({str(tensor.dtype) for _, tensor in _tensors(model)})
    quantised = str(getattr(getattr(model, "config", None), "quantization_config", None))
    # How weights are named and converted depends on the class and the version of transformers.
    made = (_FORMAT, type(model).__name__, version("transformers"), dtypes, quantised, files)
    return hashlib.sha256(repr(made).encode()).hexdigest()


def _weight_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix in _SUFFIXES)


def _cache(key: str) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("mechguard") / "weights" / f"{key}.json"


def _recall(key: str | None) -> WeightDigests | None:
    if key is None:
        return None
    try:
        kept, sealed = read_sealed(_cache(key))
        return WeightDigests(**kept) if sealed else None
    except (OSError, ValueError, TypeError):
        return None  # it is made anew


def _keep(key: str | None, digests: WeightDigests) -> None:
    if key is not None:
        with suppress(InputError):  # a cache that cannot be written costs time alone
            write_atomically(_cache(key), sealed_json(asdict(digests)))
