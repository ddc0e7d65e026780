"""The command line as a whole: help, exit codes, interruption."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny
from words import documents, save

from analyses.cli import options
from interp.doctor.report import Check, DoctorReport

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "mechguard"]
VERBS = (
    "plan",
    "doctor",
    "sinks",
    "refusal",
    "cliff",
    "backdoor",
    "self-report",
    "interaction",
    "traces",
    "generate",
    "serve",
    "collect",
    "probe",
    "guard",
    "steer",
    "vector",
    "report",
    "render",
    "organisms",
)


STOPPED = "mechguard: interrupted; no result was written, and "
KEPT = f"{STOPPED}the same command goes on from where it was."
LOST = f"{STOPPED}nothing was kept, so the same command begins anew."


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="mechguard")
    assert script.value == "mechguard.__main__:main"


def test_help_names_every_verb_and_the_exit_codes(run: Callable[..., Any]) -> None:
    result = run("--help")
    assert result.code == 0 and result.err == ""
    for verb in VERBS:
        assert verb in result.out
        assert run(verb, "--help").code == 0
    assert "130 interrupted" in result.out


def test_memory_that_ran_out_is_told_in_a_sentence(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        torch.empty(10**15)

    monkeypatch.setattr("interp.resolve.load", full)
    result = run("doctor", "any")
    assert result.code == 2 and "Traceback" not in result.err
    assert "memory ran out (" in result.err and "--dtype bfloat16" in result.err

    def wrong(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("interp.resolve.load", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run("doctor", "any")


def test_help_answers_at_once_and_imports_no_torch(tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        # Of the processor, because another process on the machine would stretch the clock's.
        begun = os.times()
        done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, check=True)
        spent = os.times()
        seconds.append(
            spent.children_user
            + spent.children_system
            - begun.children_user
            - begun.children_system
        )
    assert b"Bring a checkpoint" in done.stdout
    assert min(seconds) < 0.5
    profiled = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mechguard", "--help"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in profiled.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & {"torch", "transformers", "pandas", "plotly", "sklearn", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["sinks", "m", "--texts", "t", "--out", "o", "--nonsense"], "No such option: --nonsense"),
        (["sinks", "m", "--texts", "t"], "Missing option '--out'"),
        (["sinks", "m", "--out", "o"], "m needs --texts FILE"),
        (
            ["sinks", "m", "--texts", "t", "--out", "o", "--length", "long"],
            "Invalid value for '--length'",
        ),
        (["sinks", "m", "--texts", "t", "--out", "o", "--attention", "fast"], "'fast' is not one"),
        (["sinks", "m", "--texts", "t", "--out", "o", "--dtype", "int8"], "'int8' is not one"),
        (["plan"], "Missing argument"),
        (["organisms", "nonsense"], "No such command 'nonsense'"),
    ],
)
def test_a_wrong_call_is_bad_input(
    run: Callable[..., Any], arguments: list[str], words: str
) -> None:
    result = run(*arguments)
    assert result.code == 2 and result.out == ""
    assert words in " ".join(result.err.split()) and "Traceback" not in result.err


@pytest.mark.parametrize("status", ["PASS", "FAIL"])
def test_a_failed_check_is_exit_code_1(
    run: Callable[..., Any], shelf: Path, status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = (
        Check("parity", status, 0.5, 1e-5, "logits"),
        Check("cache", "N/A", None, None, "no cache"),
    )
    report = DoctorReport("m", "LlamaForCausalLM", "float32", "cpu", 0.1, checks)
    monkeypatch.setattr("interp.doctor.report.doctor", lambda checkpoint: report)
    result = run("doctor", shelf / "llama")
    assert result.code == (status == "FAIL")
    assert status in result.out and "no cache" in result.out
    assert ("fails 1 check(s): parity." in result.message) is (status == "FAIL")


def test_an_interruption_in_this_process_is_one_sentence(
    run: Callable[..., Any], shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("analyses.planning.blueprint", interrupted)
    monkeypatch.setattr("interp.resume.run_folder._noted", {})
    result = run("plan", shelf / "llama")
    assert result.code == 130
    assert result.message == LOST


def test_sigterm_is_what_ctrl_c_is(
    run: Callable[..., Any], shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("analyses.planning.blueprint", stopped)
    monkeypatch.setattr("interp.resume.run_folder._noted", {})
    result = run("plan", shelf / "llama")
    assert (result.code, result.message) == (130, LOST)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_during_the_clean_up_is_one_sentence_too(
    run: Callable[..., Any], shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        options.HELD.callback(signal.raise_signal, signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("analyses.planning.blueprint", stopped)
    monkeypatch.setattr("interp.resume.run_folder._noted", {})
    result = run("plan", shelf / "llama")
    assert (result.code, result.message) == (130, LOST)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_report_and_the_same_command_goes_on(
    sent: signal.Signals,
    run: Callable[..., Any],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tiny("llama"), tmp_path / "model")
    texts, out = tmp_path / "long.txt", tmp_path / "out"
    texts.write_text("\n\n".join(documents(24, 230)))
    arguments = ["sinks", str(tmp_path / "model"), "--texts", str(texts), "--out", str(out)]
    arguments += ["--length", "220", "--causal-sequences", "24"]
    # A shell starts background jobs with SIGINT ignored, which children inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(tmp_path / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    while process.poll() is None and not list(cache.glob("*/causal-0000.safetensors")):
        time.sleep(0.01)
    process.send_signal(sent)
    out_text, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out_text == "" and "Traceback" not in err
    assert err.strip().splitlines()[-1] == KEPT
    assert not list(tmp_path.rglob("report.*")) and not out.exists()
    (unfinished,) = cache.iterdir()
    assert not [path for path in unfinished.iterdir() if path.name.startswith(".")]

    from analyses.sinks import causal

    computed: list[int] = []
    real = causal._layer_effects

    def spy(checkpoint: Any, inputs: Any, layer: int, *rest: Any) -> Any:
        computed.append(layer)
        return real(checkpoint, inputs, layer, *rest)

    monkeypatch.setattr(causal, "_layer_effects", spy)
    result = run(*arguments)
    assert result.code == 0, result.err
    assert (out / "report.html").is_file() and (out / "report.json").is_file()
    assert 0 not in computed and computed[-1] == 3
    assert list(cache.iterdir()) == []
