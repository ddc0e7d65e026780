"""A run's own folder: one process at a time, kept until the run is done; what provenances share."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from analyses.shared.running import Stopwatch, exclusive, own_folder
from interp.errors import InputError


def test_the_same_run_has_the_same_folder_and_another_another(tmp_path: Path) -> None:
    first = own_folder(tmp_path, "refusal", "model", 3)
    assert first == own_folder(tmp_path, "refusal", "model", 3) and first.is_dir()
    assert first != own_folder(tmp_path, "refusal", "model", 4)
    assert own_folder(None, "refusal", "model", 3) is None


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be made"):
        own_folder(tmp_path / "file", "refusal")


def test_what_is_done_is_removed_and_what_was_stopped_is_kept(tmp_path: Path) -> None:
    folder = own_folder(tmp_path, "refusal")
    with pytest.raises(KeyboardInterrupt), exclusive(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt
    with exclusive(folder):
        assert (folder / "half").exists()
    assert not folder.exists()
    with exclusive(None):
        pass


def test_a_second_process_is_told_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = own_folder(tmp_path, "refusal")
    other = (
        "import pathlib, sys\n"
        "from analyses.shared.running import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", other, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "in\n"
        with (
            pytest.raises(InputError, match=r"under way in another process; wait for it"),
            exclusive(folder),
        ):
            pytest.fail("two at once")
        assert folder.exists()
    assert process.returncode == 0 and not folder.exists()


def test_a_killed_process_leaves_the_folder_to_go_on_from(tmp_path: Path) -> None:
    folder = own_folder(tmp_path, "refusal")
    dies = (
        "import os, pathlib, sys\n"
        "from analyses.shared.running import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", dies, str(folder)], check=False).returncode == 9
    with exclusive(folder):
        assert folder.exists()


def test_a_provenance_tells_how_and_when() -> None:
    told = Stopwatch().facts(3, "mechguard refusal x")
    assert told["seed"] == 3 and told["command"] == "mechguard refusal x"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", told["started"])
    assert 0 <= told["wall_seconds"] < 5 and "torch" in told["versions"]
