"""The container of an artefact: a safetensors file, read strictly and sealed with a checksum.

The metadata of the file hold our description as JSON, and the SHA-256 of that description and of
every tensor: name, dtype, shape and bytes. What else is in the file (offsets, order, white space)
can only be wrong, which is refused, or written in another way, which changes nothing.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.resume.sealed import CHECKSUM, canonical, is_checksum, strict_json

HEADER_LIMIT = 8 * 2**20
_HEADER, _METADATA = "mechguard", "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_AXES, _MOST = 8, 2**48


@dataclass(frozen=True)
class Container:
    """What such a file holds.

    Attributes:
        header: the description.
        text: the JSON that it was read from.
        tensors: by name.
        checksum: that the file states; None where it is from before there were any.
    """

    header: dict[str, Any]
    text: str
    tensors: dict[str, Tensor]
    checksum: str | None

    @property
    def intact(self) -> bool:
        """Whether the file holds what its checksum was taken of."""
        return self.checksum == digest(self.header, self.tensors)


def digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and its tensors: names, dtypes, shapes and bytes."""
    names = sorted(tensors)
    outline = [[name, _NAMES[tensors[name].dtype], list(tensors[name].shape)] for name in names]
    found = hashlib.sha256(canonical({"header": header, "tensors": outline}))
    for name in names:
        found.update(tensor_bytes(tensors[name]))
    return found.hexdigest()


def packed(text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a sealed file.

    Args:
        text: the description as JSON, kept as it is.
        tensors: on the CPU.

    Raises:
        ValueError: the description is no strict JSON, or too long; a dtype that cannot be kept.
    """
    if unknown := [name for name, tensor in tensors.items() if tensor.dtype not in _NAMES]:
        raise ValueError(f"{unknown[0]} is {tensors[unknown[0]].dtype}")
    sealed = {_HEADER: text, CHECKSUM: digest(strict_json(text), tensors)}
    entries: dict[str, Any] = {_METADATA: sealed}
    # The widest numbers first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        entries[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > HEADER_LIMIT:
        raise ValueError(f"the description has {len(head) / 1e6:.1f} MB; the most is 8")
    content = (tensor_bytes(tensors[name]) for name in order)
    return b"".join([len(head).to_bytes(8, "little"), head, *content])


def read_container(path: Path) -> Container | None:
    """Read a file of ours; None if it is a safetensors file of somebody else.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no safetensors file, or a damaged one.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("it ends before its header does")
        if length > HEADER_LIMIT:
            raise ValueError(f"its header has {length / 1e6:.1f} MB; the most is 8")
        entries = strict_json(file.read(length))
        if not isinstance(entries, dict):
            raise ValueError("its header is no JSON object")
        metadata = entries.pop(_METADATA, None)
        if not isinstance(metadata, dict) or _HEADER not in metadata:
            return None
        text, checksum = _sealed(metadata)
        header = strict_json(text)
        if not isinstance(header, dict):
            raise ValueError("its description is no JSON object")
        ranges = _ranges(entries, size - 8 - length)
        data = bytearray(file.read())
    if len(data) != size - 8 - length:
        raise ValueError("it changed while it was read")
    tensors = {
        name: _tensor(data, begin, _DTYPES[entries[name]["dtype"]], entries[name]["shape"])
        for name, begin in ranges.items()
    }
    return Container(header, text, tensors, checksum)


def _sealed(metadata: dict[str, Any]) -> tuple[str, str | None]:
    """The description and the checksum; nothing else may stand beside them."""
    if extra := set(metadata) - {_HEADER, CHECKSUM}:
        raise ValueError(f"its metadata hold {min(extra)[:40]!r}, which mechguard does not write")
    text, checksum = metadata[_HEADER], metadata.get(CHECKSUM)
    if not isinstance(text, str):
        raise ValueError("its description is no text")
    if CHECKSUM in metadata and not is_checksum(checksum):
        raise ValueError("its checksum is none")
    return text, checksum


def _ranges(entries: dict[str, Any], size: int) -> dict[str, int]:
    """Where each tensor begins; together they fill the file, each byte once."""
    ranges = {name: _range(name, entry) for name, entry in entries.items()}
    end = 0
    for name, (begin, stop) in sorted(ranges.items(), key=lambda item: item[1]):
        if begin != end:
            raise ValueError(f"the tensor {name[:40]!r} does not begin where the last one ends")
        end = stop
    if end != size:
        raise ValueError(f"its tensors are {end} bytes long, and {size} follow the header")
    return {name: begin for name, (begin, _) in ranges.items()}


def _range(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of the tensor {name[:40]!r} is incomplete")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"the tensor {name[:40]!r} has the dtype {str(dtype)[:20]!r}")
    if not _lengths(shape) or len(shape) > _MOST_AXES or math.prod(n or 1 for n in shape) > _MOST:
        raise ValueError(f"the tensor {name[:40]!r} has the shape {str(shape)[:40]}")
    if not _lengths(offsets) or len(offsets) != 2:
        raise ValueError(f"the tensor {name[:40]!r} has the offsets {str(offsets)[:40]}")
    if offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"the shape of the tensor {name[:40]!r} does not fit its bytes")
    return offsets[0], offsets[1]


def _lengths(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _tensor(data: bytearray, begin: int, dtype: torch.dtype, shape: list[int]) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    # A copy, so that tensors are aligned and do not hold the whole file in memory.
    return torch.frombuffer(data, dtype=dtype, count=count, offset=begin).clone().reshape(shape)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in memory order, on the CPU; not copied where they lie so already."""
    flat = tensor.detach().reshape(-1).cpu().contiguous()
    found: memoryview = flat.view(torch.uint8).numpy().data
    return found
