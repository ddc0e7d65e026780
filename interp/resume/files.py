"""Files that are whole or absent: written under a temporary name, then renamed."""

import glob
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from interp.errors import InputError, first_line
from interp.reading import exists

log = logging.getLogger("mechguard")

TEMPORARY = ".tmp"
"""Suffix of files that are not whole yet."""

_CHECKSUM = "sha256"


def load_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        InputError: it is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            kept = (file.metadata() or {}).get(_CHECKSUM)
            arrays: dict[str, NDArray[Any]] = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged; it is computed again.") from error
    if kept != _checksum(arrays):
        raise InputError(f"{path} is damaged (its checksum differs); it is computed again.")
    return arrays


def once(path: Path | None, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """What an earlier run has left at a path, or else what is made now, which is left there.

    A damaged file is as good as none, and a warning says so.

    Args:
        path: of the file; None where nothing is kept.
        make: computes the arrays.

    Raises:
        InputError: the disk is full or not writable.
    """
    if path is not None and path.exists():
        try:
            return load_tensors(path)
        except InputError as error:
            log.warning("%s", error)
    made = make()
    if path is not None:
        save_tensors(path, made)
    return made


def save_tensors(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a safetensors file with its checksum under a temporary name, then rename it.

    Raises:
        InputError: the disk is full or not writable.
    """
    with replacing(path) as temporary:
        save_file(arrays, temporary, {_CHECKSUM: _checksum(arrays)})


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it.

    Raises:
        InputError: the disk is full or not writable.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _left(path: Path) -> str:
    """What is there after a file could not be written: it, as it was, and the parts before it."""
    if exists(path):
        return "what it held before is unchanged"
    name = glob.escape(path.name)
    pattern = re.sub(r"[0-9]+", "*", name)
    if pattern == name:
        return "nothing is left of it"
    with suppress(OSError):
        if parts := len(list(path.parent.glob(pattern))):
            return f"the {parts} part(s) written before it are kept in {path.parent}"
    return "no part was written before it, so nothing is kept"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, made if need be, that takes its place at the end.

    Raises:
        InputError: the disk is full or not writable, or the path is a device or a pipe; nothing
            half-written is left.
    """
    if exists(path) and not path.is_file() and not path.is_dir():
        raise InputError(
            f"{path} is no regular file, and would be replaced by one; name another path."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{path} cannot be written ({reason}), and {_left(path)}; free some space or choose "
            "another folder, and run again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
