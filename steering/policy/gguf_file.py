"""A strict reader of small GGUF files, such as control vectors.

Every length is checked against the bytes that are left before it is used, so that a damaged count
is a sentence and no endless loop. Only little-endian files and unquantised tensors are read; the
format carries no checksum, so a changed number of a vector cannot be noticed.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_SCALARS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"},
    **{10: "<Q", 11: "<q", 12: "<d"},
}
_TEXT, _LIST = 8, 9
_DTYPES = {0: torch.float32, 1: torch.float16, 28: torch.float64}
_LARGEST = 2**30
_MOST = 2**16
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class GGUFFile:
    """What such a file holds.

    Attributes:
        fields: by key.
        tensors: by name, in float32.
    """

    fields: dict[str, Any]
    tensors: dict[str, Tensor]


def read_gguf(path: Path) -> GGUFFile:
    """Read a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no GGUF file, a damaged one, or one that this reader is not for.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"it has {size / 1e9:.1f} GB, which is no file of vectors")
    data = _Bytes(path.read_bytes())
    if data.take(4) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = data.number("<I")
    if version not in _VERSIONS:
        raise ValueError(
            f"its version is {version}; versions {_VERSIONS} in little endian are read"
        )
    tensors, keys = data.count(24), data.count(13)
    fields: dict[str, Any] = {}
    for _ in range(keys):
        key = data.text()
        _require_new(key, fields)
        fields[key] = _value(data, data.number("<I"))
    infos: dict[str, _Info] = {}
    for _ in range(tensors):
        name = data.text()
        _require_new(name, infos)
        infos[name] = _info(data, name)
    return GGUFFile(fields, _tensors(data, infos, fields.get(_ALIGNMENT, 32)))


@dataclass(frozen=True)
class _Info:
    dtype: torch.dtype
    shape: list[int]
    offset: int

    @property
    def length(self) -> int:
        """Numbers in the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class _Bytes:
    """A file's bytes, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("it ends too early")
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, least: int) -> int:
        """A number of things that take at least so many bytes each."""
        count: int = self.number("<Q")
        if count > min(_MOST, self.left // least):
            raise ValueError(f"it states {count} entries, which it has no room for")
        return count

    def text(self) -> str:
        size: int = self.number("<Q")
        return self.take(size).decode("utf-8")


def _value(data: _Bytes, kind: int) -> Any:
    if kind == _TEXT:
        return data.text()
    if kind in _SCALARS:
        return data.number(_SCALARS[kind])
    if kind != _LIST:
        raise ValueError(f"it has a value of type {kind}, which there is not")
    inner = data.number("<I")
    if inner not in (_TEXT, *_SCALARS):
        raise ValueError(f"it has a list of type {inner}, which is not read")
    least = 8 if inner == _TEXT else struct.calcsize(_SCALARS[inner])
    read: Callable[[], Any] = data.text if inner == _TEXT else lambda: data.number(_SCALARS[inner])
    return [read() for _ in range(data.count(least))]


def _info(data: _Bytes, name: str) -> _Info:
    axes = data.number("<I")
    if axes > 4:
        raise ValueError(f"the tensor {name[:40]!r} has {axes} axes")
    shape = [data.number("<Q") for _ in range(axes)]
    kind = data.number("<I")
    if kind not in _DTYPES:
        raise ValueError(
            f"the tensor {name[:40]!r} is of GGML type {kind}; F32, F16 and F64 are read"
        )
    return _Info(_DTYPES[kind], shape, data.number("<Q"))


def _tensors(data: _Bytes, infos: dict[str, _Info], alignment: Any) -> dict[str, Tensor]:
    """The tensors, which follow each other with less than one alignment of padding."""
    if type(alignment) is not int or not 0 < alignment <= _MOST or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {str(alignment)[:20]}, which is no power of two")
    start = -(-data.place // alignment) * alignment
    end, found = 0, {}
    for name, info in sorted(infos.items(), key=lambda item: item[1].offset):
        size = info.length * info.dtype.itemsize
        place = start + info.offset
        if not size or info.offset != -(-end // alignment) * alignment or size > _LARGEST:
            raise ValueError(f"the tensor {name[:40]!r} is empty, or not where it should be")
        if place + size > len(data.data):
            raise ValueError("it ends too early")
        end = info.offset + size
        raw = bytearray(data.data[place : place + size])
        shape = info.shape[::-1]
        found[name] = torch.frombuffer(raw, dtype=info.dtype).reshape(shape).float()
    if infos and len(data.data) - (start + end) >= alignment:
        raise ValueError("bytes follow its last tensor")
    return {name: found[name] for name in infos}


def _require_new(name: str, known: dict[str, Any]) -> None:
    if name in known:
        raise ValueError(f"it has {name[:40]!r} twice")
