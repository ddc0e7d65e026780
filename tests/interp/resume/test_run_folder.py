"""A run's own folder: one process at a time, kept until the run is done, and only its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.resume import run_folder as module
from interp.resume.run_folder import any_kept, changes, exclusive, listed, note, run_folder


def test_a_run_that_kept_nothing_leaves_nothing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "refusal", {})
    with pytest.raises(KeyboardInterrupt), exclusive(folder):
        raise KeyboardInterrupt
    assert not folder.exists()


def test_whether_anything_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_noted", {})
    folder = run_folder(tmp_path, "refusal", {})
    assert not any_kept()
    (folder / "half").touch()
    assert any_kept()
    with exclusive(folder):
        pass
    assert not any_kept()
    note(tmp_path)
    assert not any_kept()
    (tmp_path / "state").touch()
    assert any_kept()


def test_what_is_not_whole_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    folder = run_folder(tmp_path, "refusal", {})
    run_folder(folder / "states", "capture", {})  # nothing is in it yet
    (folder / ".batch.safetensors.123.tmp").touch()  # left by a kill
    run_folder(tmp_path, "refusal", {})
    assert "goes on" not in caplog.text
    with pytest.raises(KeyboardInterrupt), exclusive(folder):
        raise KeyboardInterrupt
    assert not folder.exists()


def test_a_run_whose_files_others_would_share_removes_what_they_left(tmp_path: Path) -> None:
    other = run_folder(tmp_path, "capture", {"seed": 1})
    (other / "half").touch()
    kept = run_folder(tmp_path, "refusal", {"seed": 1})
    mine = run_folder(tmp_path, "capture", {"seed": 2}, alone=True)
    assert mine.exists() and kept.exists() and not other.exists()


def test_a_damaged_description_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for number, text in enumerate(["{", "[]", json.dumps({"seed": 1, "layers": [1]})]):
        other = run_folder(tmp_path, "refusal", {"number": number})
        (other / "half").touch()
        (other / "run.json").write_text(text)
    caplog.clear()
    run_folder(tmp_path, "refusal", {"seed": 2, "layers": [1]})
    assert "another run (seed 1 then, 2 now)" in caplog.text


def test_changes_are_listed_by_field() -> None:
    then = {"model": {"weights": "ab" * 32, "eps": 1e-6}, "seed": 0, "gone": None}
    now = {"model": {"weights": "cd" * 32, "eps": 1e-6}, "seed": 1, "text": "x" * 90}
    found = changes(then, now)
    assert found[:2] == ["model.weights abababab then, cdcdcdcd now", "seed 0 then, 1 now"]
    assert found[2].startswith("text null then, xxx") and found[2].endswith("… now")
    assert listed([*found, "a", "b"]).endswith("and 1 more")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be made"):
        run_folder(tmp_path / "file", "refusal", {})


def test_what_is_done_is_removed_and_what_was_stopped_is_kept(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "refusal", {})
    with pytest.raises(KeyboardInterrupt), exclusive(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt
    with exclusive(folder):
        assert (folder / "half").exists()
    assert not folder.exists()
    with exclusive(None):
        pass


def test_a_second_process_is_told_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "refusal", {})
    other = (
        "import pathlib, sys\n"
        "from interp.resume.run_folder import exclusive\n"
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
    folder = run_folder(tmp_path, "refusal", {})
    dies = (
        "import os, pathlib, sys\n"
        "from interp.resume.run_folder import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])):\n"
        "    (pathlib.Path(sys.argv[1]) / 'half').touch()\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", dies, str(folder)], check=False).returncode == 9
    with exclusive(folder):
        assert folder.exists()
