"""The command line run in this process."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ENVIRONMENT = (
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_HUB_VERBOSITY",
    "TRANSFORMERS_VERBOSITY",
    "TOKENIZERS_PARALLELISM",
)


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The last thing that was said on stderr."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""

    def assert_refused(self, code: int, *words: str) -> None:
        """One clear sentence on stderr, nothing on stdout, and the exit code."""
        assert self.code == code, self.err
        assert self.message.startswith("mechguard: ") and self.message.endswith("."), self.err
        assert "Traceback" not in self.err and self.out == ""
        for word in words:
            assert word in self.message


Run = Callable[..., Result]


def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`mechguard ARGUMENTS…` in this process; the body of a fixture."""
    from analyses.cli import main

    for name in ENVIRONMENT:
        # Set to what it is, so that what `main` sets is undone.
        monkeypatch.setenv(name, "error" if "VERBOSITY" in name else "1")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["mechguard", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code
        assert code is None or isinstance(code, int)
        return Result(code or 0, *capfd.readouterr())

    log = logging.getLogger("mechguard")
    level = log.level
    yield call
    log.setLevel(level)
