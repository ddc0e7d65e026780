"""JSON that is read strictly, and files that carry a checksum of what they say.

A sealed JSON file holds the SHA-256 of its own text, taken with zeros in the checksum's place, so
that a change of any byte is found. Files without a checksum come from before there were any: they
are read, and a warning says so once.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.reading import exists, require_file

CHECKSUM = "sha256"
_BLANK = "0" * 64
_DEPTH = 64
_DIGITS = 20
_BLOCK = 2**20
_log = logging.getLogger("mechguard")
_said: set[Path] = set()


def strict_json(text: str | bytes) -> Any:
    """Parse JSON of which every reader makes the same.

    Args:
        text: as text or UTF-8.

    Raises:
        ValueError: no JSON, or JSON with a key twice, NaN or infinity, an integer of more than 20
            digits, half a surrogate pair, or lists and objects nested deeper than 64.
    """
    try:
        value = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError(f"its JSON is nested deeper than {_DEPTH}") from None
    _require_depth(value)
    canonical(value)
    return value


def repeated(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """The first key that stands twice in an object of JSON, given as its pairs."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def canonical(value: Any) -> bytes:
    """JSON in one form only: sorted keys, no white space, UTF-8.

    Raises:
        ValueError: a number is NaN or infinite, or text is no Unicode.
    """
    return json.dumps(
        value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """The text of a JSON file with its checksum under `sha256`."""
    blank = json.dumps({**value, CHECKSUM: _BLANK}, indent=1, allow_nan=False) + "\n"
    digest = hashlib.sha256(blank.encode()).hexdigest()
    return digest.join(blank.rsplit(_BLANK, 1)).encode()


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a JSON file, and check its checksum where it has one.

    Returns:
        The object without its checksum, and whether it had one.

    Raises:
        InputError: it is no regular file.
        OSError: the file cannot be read.
        ValueError: it is no JSON object, or does not match its checksum.
    """
    if exists(path):
        require_file(path)  # a named pipe would be waited on for ever
    text = path.read_bytes()
    value = strict_json(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    given = value.pop(CHECKSUM, None)
    if given is None:
        return value, False
    if not is_checksum(given):
        raise ValueError("its checksum is none")
    blank = _BLANK.encode().join(text.rsplit(given.encode(), 1))
    if hashlib.sha256(blank).hexdigest() != given:
        raise ValueError("its checksum does not match: the file was changed after it was written")
    return value, True


def is_checksum(value: Any) -> bool:
    """Whether this is a SHA-256 in lower-case hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: it is no regular file.
        OSError: it cannot be read.
    """
    if exists(path):
        require_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def warn_unsealed(path: Path) -> None:
    """Say, once a file or folder, that it has no checksum, and how it gets one."""
    place = path.resolve()
    if place not in _said:
        _said.add(place)
        _log.warning(
            "%s has no checksum, so a damaged byte in it would not be noticed; if you trust it, "
            "run: mechguard vector info --seal %s",
            path,
            path,
        )


def acknowledge(path: Path) -> None:
    """Say nothing of this file or folder any more."""
    _said.add(path.resolve())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated(pairs)) is not None:
        raise ValueError(f"its JSON has the key {twice[:40]!r} twice")
    return dict(pairs)


def _constant(text: str) -> Any:
    raise ValueError(f"its JSON holds {text}, which is no number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"its JSON holds {text[:40]}, which is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"its JSON holds an integer of {len(text)} digits")
    return int(text)


def _require_depth(value: Any) -> None:
    layer, depth = [value], 0
    while layer:
        if depth > _DEPTH:
            raise ValueError(f"its JSON is nested deeper than {_DEPTH}")
        inner = [one for one in layer if isinstance(one, dict | list)]
        layer = [each for one in inner for each in (one.values() if isinstance(one, dict) else one)]
        depth += 1
