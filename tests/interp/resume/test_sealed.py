"""Strict JSON, and JSON files that carry their checksum."""

import json
import logging
import os
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.resume.sealed import (
    acknowledge,
    canonical,
    file_sha256,
    read_sealed,
    sealed_json,
    strict_json,
    warn_unsealed,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "key 'a' twice"),
        ('{"a": {"b": 1, "b": 1}}', "key 'b' twice"),
        ('{"a": NaN}', "NaN, which is no number"),
        ("[-Infinity]", "-Infinity, which is no number"),
        ("[1e999]", "1e999, which is too large"),
        ("[" + "9" * 21 + "]", "integer of 21 digits"),
        ("[" * 70 + "]" * 70, "nested deeper than 64"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("{", "Expecting property name"),
    ],
)
def test_what_strict_json_is_not(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strict_json(text)


def test_strict_json_reads_what_is_right() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ü": "\u2028"}}
    assert strict_json(json.dumps(value)) == strict_json(json.dumps(value).encode()) == value
    assert canonical(value) == canonical(dict(reversed(value.items())))
    assert canonical([1]) != canonical([1.0])


def test_every_bit_of_a_sealed_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = {"kind": "collection", "rows": 12, "names": ["a", "b"]}
    text = sealed_json(value)
    path.write_bytes(text)
    assert read_sealed(path) == (value, True)
    for place in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[place] ^= 1 << bit
            path.write_bytes(bytes(changed))
            try:
                found, sealed = read_sealed(path)
            except ValueError:
                continue
            # The key of the checksum may become another word, which is a field that is not known.
            assert not sealed and set(found) - set(value), (place, bit)


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"rows": 1}')
    assert read_sealed(path) == ({"rows": 1}, False)
    for content in ("[]", '{"sha256": 3}', '{"sha256": "abc"}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"no JSON object|its checksum is none"):
            read_sealed(path)


def test_a_missing_checksum_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mechguard"):
        for _ in range(2):
            warn_unsealed(tmp_path / "a")
        acknowledge(tmp_path / "b")
        warn_unsealed(tmp_path / "b")
    (message,) = [record.message for record in caplog.records]
    assert "has no checksum" in message and "mechguard vector info --seal" in message


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_a_named_pipe_is_refused_and_not_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "collection.json")
    for read in (read_sealed, file_sha256):
        with pytest.raises(InputError, match="it is a named pipe; give a regular file"):
            read(tmp_path / "collection.json")
