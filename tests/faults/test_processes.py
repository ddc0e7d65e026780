"""Faults that need a process of its own: pipes, limits of the system, kills."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from families import tiny
from words import documents, save

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "mechguard")
SECONDS = 60  # of which most are for imports on a busy machine


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    save(tiny("llama"), folder / "model")
    (folder / "texts.txt").write_text("\n\n".join(documents(6, 30)))
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return {**os.environ, **cache}


Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def call(environment: dict[str, str]) -> Iterator[Call]:
    """`mechguard ARGUMENTS…` in a process, which ends in time."""

    def run(*arguments: str | Path, **how: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=SECONDS,
            **{"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, **how},
        )

    yield run


def _limit(size: int) -> Callable[[], None]:
    """No file of the process may grow beyond a size, as on a disk that is nearly full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def _sinks(home: Path, out: Path) -> tuple[str | Path, ...]:
    return ("sinks", home / "model", "--texts", home / "texts.txt", "--length", "8", "--out", out)


def _assert_one_sentence(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mechguard: ") and last.endswith("."), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("mechguard: ") == 1
    for word in words:
        assert word in last, last


def test_a_reader_that_leaves_is_no_error(environment: dict[str, str]) -> None:
    """As in `mechguard organisms list | head -1`."""
    with subprocess.Popen(
        [*COMMAND, "organisms", "list"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(SECONDS) in (1, 141)
    assert said == ""


def test_a_closed_stdout_is_no_traceback(call: Call, home: Path) -> None:
    def close() -> None:
        os.close(1)

    done = call("plan", home / "model", stdout=None, preexec_fn=close)
    assert "Traceback" not in done.stderr and done.returncode in (0, 2)


def test_a_disk_that_is_full_for_the_report(call: Call, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(*_sinks(home, out), preexec_fn=_limit(200_000))
    _assert_one_sentence(done, "cannot be written to: File too large; no file of the report was")
    assert not out.exists()


def test_a_disk_that_is_full_for_the_work_folder(call: Call, home: Path, tmp_path: Path) -> None:
    done = call(*_sinks(home, tmp_path / "out"), preexec_fn=_limit(100))
    _assert_one_sentence(done, "(File too large), and ", "free some space")
    assert not any(tmp_path.rglob("*.tmp")) and not (tmp_path / "out").exists()


def test_a_file_system_that_takes_no_folder(call: Call, home: Path) -> None:
    _assert_one_sentence(call(*_sinks(home, Path("/proc/mechguard"))), "/proc/mechguard")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_to(call: Call, home: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _assert_one_sentence(call(*_sinks(home, tmp_path / "out")), "cannot be written to")


def test_a_device_is_not_replaced(call: Call, home: Path, tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    done = call("doctor", home / "model", "--json", tmp_path / "full")
    _assert_one_sentence(done, "is no regular file")
    assert Path("/dev/full").is_char_device() and (tmp_path / "full").is_symlink()


def test_a_killed_run_leaves_no_report_and_is_done_again(
    environment: dict[str, str], call: Call, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [*COMMAND, *map(str, _sinks(home, out))],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + SECONDS
        while not (out / ".lock").exists() and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
    assert not (out / "report.json").exists()
    done = call(*_sinks(home, out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "report.json").read_text())["kind"] == "sinks"
