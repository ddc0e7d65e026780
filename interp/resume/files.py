"""Files that are whole or absent: written under a temporary name, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from interp.errors import InputError, first_line


def load_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a shard.

    Raises:
        InputError: it is damaged.
    """
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged; remove it, and it is computed again.") from error
    return arrays


def save_tensors(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a safetensors file under a temporary name, then rename it.

    Raises:
        InputError: the disk is full or not writable.
    """
    with replacing(path) as temporary:
        save_file(arrays, temporary)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it.

    Raises:
        InputError: the disk is full or not writable.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, made if need be, that takes its place at the end.

    Raises:
        InputError: the disk is full or not writable; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{path} cannot be written ({reason}); free some space or choose another folder and "
            "run again, finished batches are kept."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
