"""Files that are whole or absent, and what is said where they cannot be written."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import InputError
from interp.resume.files import replacing, save_tensors, write_atomically


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which nothing more can be put in place."""

    def replace(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", replace)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["x.json"]


@pytest.mark.usefixtures("full")
def test_a_full_disk_leaves_nothing_of_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"\(No space left on device\), and nothing is left of it"):
        write_atomically(path, b"one")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_an_old_file_as_it_was(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "batch-000001.safetensors"
    write_atomically(path, b"one")
    request.getfixturevalue("full")
    with pytest.raises(InputError, match="what it held before is unchanged"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == [path.name]


def test_a_full_disk_leaves_the_parts_before_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    arrays = {"a": np.zeros(3)}
    for number in range(2):
        save_tensors(tmp_path / f"batch-{number:06d}.safetensors", arrays)
    request.getfixturevalue("full")
    with pytest.raises(InputError, match=r"the 2 part\(s\) written before it are kept in"):
        save_tensors(tmp_path / "batch-000002.safetensors", arrays)
    with pytest.raises(InputError, match="no part was written before it, so nothing is kept"):
        save_tensors(tmp_path / "replies-000000.safetensors", arrays)
    assert len(os.listdir(tmp_path)) == 2


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    os.mkfifo(path)
    with pytest.raises(InputError, match="no regular file, and would be replaced"):
        write_atomically(path, b"one")
    assert path.is_fifo()


def test_a_failure_inside_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing(tmp_path / "x") as temporary:
        temporary.touch()
        raise KeyError
    assert os.listdir(tmp_path) == []
