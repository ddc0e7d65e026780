"""The matrix of faults: each call is refused in one sentence, with its exit code, and soon."""

import json
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, in_process
from families import tiny
from faults import arguments, checkpoints, inputs
from faults.table import Fault
from words import documents, save

FAULTS = (*checkpoints.FAULTS, *inputs.FAULTS, *arguments.FAULTS)
VERBS = {
    "plan", "doctor", "sinks", "refusal", "cliff", "backdoor", "self-report", "interaction",
    "traces", "generate", "serve", "collect", "probe", "guard", "steer", "vector", "report",
    "render", "organisms",
}  # fmt: skip
SECONDS = 10


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads words, with texts and prompts beside it."""
    folder = tmp_path_factory.mktemp("faults")
    save(tiny("llama"), folder / "model")
    (folder / "texts.txt").write_text("\n\n".join(documents(6, 30)))
    rows = [{"prompt": text, "label": "harmful"} for text in documents(4, 6, seed=1)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield from in_process(monkeypatch, capfd)


@pytest.fixture
def in_time() -> Iterator[None]:
    """A call that hangs is interrupted, and fails."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"the call took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_one_sentence(
    fault: Fault, run: Run, model: Path, tmp_path: Path, in_time: None
) -> None:
    folder = tmp_path / "dir"
    shutil.copytree(model, folder)
    fault.make(folder)
    result = run(*(word.replace("{dir}", str(folder)) for word in shlex.split(fault.argv)))
    said = " ".join(result.err.split())
    assert result.code == fault.exit, result.err
    assert "Traceback" not in result.err and result.out == ""
    assert fault.sentence in said
    if "Usage: mechguard" not in said:  # what the option parser itself refuses stands in a box
        result.assert_refused(fault.exit)
        assert said.count("mechguard: ") == 1 and len(result.message) < 900


def test_the_matrix_is_large_and_covers_every_verb_twice() -> None:
    assert len(FAULTS) >= 120 and len({fault.name for fault in FAULTS}) == len(FAULTS)
    used = [fault.argv.split()[0] for fault in FAULTS]
    assert set(used) == VERBS
    assert [verb for verb in VERBS if used.count(verb) < 2] == []
