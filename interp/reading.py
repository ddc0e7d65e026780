"""Files that users give, read without surprises: regular ones only, of a bounded size, as UTF-8.

A named pipe would be waited on for ever, a device never ends, and JSON that is nested deeply enough
exhausts Python's recursion: each is one sentence here. Whatever reads a user's file goes through
this module.
"""

import json
import stat
from pathlib import Path
from typing import Any

from interp.errors import InputError

MOST_BYTES = 2 * 1024**3
"""Bytes of a file that is read into memory whole, at most."""
MOST_CONFIG_BYTES = 10 * 1024**2
"""Bytes of a JSON file of settings, at most; published ones have some kilobytes."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def exists(path: Path) -> bool:
    """Whether there is something at a path; a name that no file system takes is of nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def require_file(path: Path, most: int = MOST_BYTES) -> int:
    """Check that a path is a regular file of a size that can be read whole; nothing is opened.

    Args:
        path: symbolic links are followed.
        most: bytes.

    Returns:
        Its bytes.

    Raises:
        InputError: it does not exist, is no regular file, or is larger.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} is not readable ({reason}); give a file.") from error
    for test, kind in _KINDS:
        if test(found.st_mode):
            raise InputError(f"{path} is not readable: it is {kind}; give a regular file.")
    if found.st_size > most:
        raise InputError(
            f"{path} is not readable: it has {found.st_size:,} bytes, more than the {most:,} that "
            "such a file may have; give a part of it, or another file."
        )
    return found.st_size


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """All bytes of a regular file.

    Raises:
        InputError: it does not exist, is no regular file, is larger than `most`, or cannot be read.
    """
    require_file(path, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} is not readable ({error.strerror}).") from error


def decoded(data: bytes) -> str:
    """UTF-8 text, without the byte-order mark that some editors put in front.

    Raises:
        ValueError: it is no UTF-8; with the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(_UTF16):
            raise ValueError("it is UTF-16; save it as UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} holds the byte 0x{data[error.start]:02x}, which is no UTF-8; save the "
            "file as UTF-8"
        ) from error


def parse_json(text: str, line: int = 1) -> Any:
    """The value of a JSON text.

    Args:
        text: the whole document.
        line: of the file in which it begins.

    Raises:
        ValueError: it is no JSON, or too deeply nested; with the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise ValueError(f"line {at}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(
            f"line {line}: brackets are nested more deeply than any such file needs"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"line {line}: {error}") from error


def json_lines(text: str) -> list[tuple[int, Any]]:
    """The value of every line that is not blank, with its number, from 1.

    Not splitlines: JSON strings may hold U+2028 and its like as they are.

    Raises:
        ValueError: a line is no JSON; with its number.
    """
    lines = enumerate(text.split("\n"), 1)
    return [(number, parse_json(line, number)) for number, line in lines if line.strip()]


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        InputError: it is missing, no regular file, too large, no UTF-8 or no JSON; with the line.
    """
    try:
        return parse_json(decoded(read_bytes(path, most)))
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}).") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The fields of a small JSON file that holds one object.

    Raises:
        InputError: as `read_json`, or it holds something else.
    """
    found = read_json(path, MOST_CONFIG_BYTES)
    if not isinstance(found, dict):
        raise InputError(
            f"{path} is not readable: it holds {_kind(found)}, where an object with fields belongs."
        )
    return found


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
