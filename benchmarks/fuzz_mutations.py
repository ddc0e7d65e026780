"""How `fuzz.py` damages files: bytes, JSON, and descriptions of artefacts that lie."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised

from interp.resume.sealed import file_sha256, sealed_json
from interp.resume.sealed_tensors import packed, read_container

_DEEP = "@@deep@@"
_DEPTHS = (10, 100, 100_000)


def damaged(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """One random change of bytes, and its name."""
    name = rng.choice(tuple(_BYTES))
    return name, _BYTES[name](rng, data)


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[_place(rng, data)] = rng.randrange(256)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.choice((1, 8, 64))) + data[place:]


def _swap(rng: random.Random, data: bytes) -> bytes:
    size = max(1, min(64, len(data) // 4))
    first, second = sorted(rng.sample(range(max(len(data) - size, 2)), 2))
    second = max(second, first + size)
    one, other = data[first : first + size], data[second : second + size]
    return data[:first] + other + data[first + size : second] + one + data[second + size :]


def _place(rng: random.Random, data: bytes) -> int:
    """Half of all places lie in the first 4 KB, where headers are."""
    return rng.randrange(min(len(data), 4096) if rng.random() < 0.5 else len(data))


_BYTES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "bit": _flip,
    "byte": _byte,
    "cut": _cut,
    "insert": _insert,
    "swap": _swap,
}


def edited(rng: random.Random, value: Any) -> Any:
    """A JSON value in which one place is dropped, or becomes something else."""
    made = copy.deepcopy(value)
    places = list(_places(made))
    if not places:
        return _other(rng, made)
    parent, key = rng.choice(places)
    if rng.random() < 0.25:
        del parent[key]
    elif isinstance(parent, list) and rng.random() < 0.25:
        parent.append(parent[key])
    else:
        parent[key] = _other(rng, parent[key])
    return made


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        # Long lists of numbers would otherwise be chosen nearly always.
        for place in range(min(len(value), 4)):
            yield value, place
            yield from _places(value[place])


def _other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((-value, -1, 0, value + 1, 10**9, 10**18, 10**30, 1e308, value + 0.5))
    odd = (None, True, "", "x", "\ud800", "9" * 5000, -1, 0, 2**31, 2**63, 1e308, _DEEP)
    return rng.choice(
        (*odd, *(float("nan"), float("inf"), [], {}, str(value), [value], {"x": value}))
    )


def as_json(rng: random.Random, value: Any) -> str:
    """The text of an edited value; what stands for deep nesting becomes it."""
    depth = rng.choice(_DEPTHS)
    return json.dumps(value).replace(f'"{_DEEP}"', "[" * depth + "]" * depth)


def edit_json(rng: random.Random, path: Path) -> None:
    """Edit a JSON file in one place."""
    path.write_text(as_json(rng, edited(rng, json.loads(path.read_text()))))


def edit_json_line(rng: random.Random, path: Path) -> None:
    """Edit one line of a .jsonl file in one place."""
    lines = path.read_text().splitlines()
    place = rng.randrange(len(lines))
    lines[place] = as_json(rng, edited(rng, json.loads(lines[place])))
    path.write_text("\n".join(lines))


def lie(rng: random.Random, path: Path) -> None:
    """Edit an artefact's description or tensors, and write the checksum of what now is there."""
    container = read_container(path)
    assert container is not None
    header, tensors = container.header, dict(container.tensors)
    if rng.random() < 0.7:
        header = edited(rng, header)
    else:
        name = rng.choice(sorted(tensors))
        tensors |= {name: _other_tensor(rng, tensors[name])}
        if rng.random() < 0.2:
            del tensors[name]
    text = as_json(rng, header)
    try:
        content = packed(text, tensors)
    except ValueError:  # what our own writer refuses
        content = serialised(tensors, metadata={"mechguard": text})
    path.write_bytes(content)


def _other_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
        lambda t: t.long(),
        lambda t: t.double(),
        lambda t: t.half(),
        lambda t: t.bool(),
        lambda t: t[None].contiguous(),
        lambda t: t.reshape(-1)[:0].clone(),
        lambda t: torch.cat([t.reshape(-1)] * 2),
        lambda t: t.float() * torch.nan,
        lambda t: t.float() * torch.inf,
        lambda t: t[..., :1].clone() if t.ndim else t,
    )
    return rng.choice(changes)(tensor)


def lie_in_collection(rng: random.Random, folder: Path) -> None:
    """Edit `collection.json` or an index, and write the checksums of what now is there."""
    outer = folder / "collection.json"
    path = rng.choice([outer, *sorted(folder.glob("*/index.json"))])
    content = json.loads(path.read_text())
    del content["sha256"]
    changed = edited(rng, content)
    try:
        path.write_bytes(sealed_json(changed))
    except ValueError:
        path.write_text(as_json(rng, changed))
    if path != outer:
        whole = json.loads(outer.read_text())
        del whole["sha256"]
        whole["checksums"][f"{path.parent.name}/{path.name}"] = file_sha256(path)
        outer.write_bytes(sealed_json(whole))
