"""Files of users: what is read, and what is refused before it is opened."""

import os
import socket
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.reading import (
    MOST_BYTES,
    MOST_CONFIG_BYTES,
    decoded,
    exists,
    json_lines,
    parse_json,
    read_bytes,
    read_json,
    read_settings,
)


def test_a_line_ends_only_where_json_says_so() -> None:
    text = '{"a": "x\u2028y"}\n\n[1]\r\n'
    assert json_lines(text) == [(1, {"a": "x\u2028y"}), (3, [1])]


def test_a_byte_order_mark_is_no_text() -> None:
    assert decoded(b"\xef\xbb\xbfa") == "a"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a\nb\xff", "line 2 holds the byte 0xff, which is no UTF-8"),
        ("a\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    ],
)
def test_other_encodings_are_named(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decoded(data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a":\n 1,,}', "line 2, column "),
        ("[" * 100_000, "line 1: brackets are nested more deeply"),
        ('{"a":' * 100_000, "line 1: brackets are nested more deeply"),
        ("1" * 5000, "line 1: Exceeds the limit"),
        ("", "line 1, column 1"),
    ],
)
def test_what_is_no_json_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_a_bad_line_is_told_with_its_number() -> None:
    with pytest.raises(ValueError, match="line 3, column 2"):
        json_lines("1\n\n{")
    with pytest.raises(ValueError, match="line 4: brackets are nested"):
        json_lines("1\n\n\n" + "[" * 100_000)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, MOST_BYTES + 1)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_pipe, "it is a named pipe"),
        (_socket, "it is a socket"),
        (_loop, "symbolic links"),
        (_large, "2,147,483,649 bytes"),
        (_device, "it is a device"),
        (Path.mkdir, "it is a folder"),
        (lambda path: None, "does not exist"),
    ],
)
def test_only_regular_files_are_opened(
    make: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / "x.json"
    assert callable(make)
    make(path)
    with pytest.raises(InputError, match=said):
        read_bytes(path)
    with pytest.raises(InputError, match=said):
        read_json(path)


def test_a_name_that_no_file_system_takes_is_of_nothing() -> None:
    assert not exists(Path("a" * 5000)) and not exists(Path("a\0b"))
    with pytest.raises(InputError, match="File name too long"):
        read_bytes(Path("a" * 5000))


def test_settings_are_a_small_object(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_settings(path) == {"a": 1}
    for text, said in (("[]", "holds a list"), ("null", "holds null"), ("3", "holds a number")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_settings(path)
    os.truncate(path, MOST_CONFIG_BYTES + 1)
    with pytest.raises(InputError, match="10,485,761 bytes"):
        read_settings(path)
