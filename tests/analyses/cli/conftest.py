"""A shelf of tiny checkpoints and texts, and the command line run in this process."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from families import tiny
from refused import bypassing
from words import documents, save

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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, where the command line keeps unfinished runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mechguard" / "unfinished"


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """`mechguard ARGUMENTS…` in this process."""
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


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `llama`, `bare` (its tokenizer adds no BOS), `bloom`; texts in every format."""
    folder = tmp_path_factory.mktemp("shelf")
    save(tiny("llama"), folder / "llama")
    save(tiny("llama"), folder / "bare", bos=False)
    save(bypassing("bloom"), folder / "bloom")
    texts = documents(6, 30)
    (folder / "words.txt").write_text("\n\n".join(texts))
    (folder / "other.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in documents(6, 30, seed=1))
    )
    (folder / "short.txt").write_text("\n\n".join(documents(6, 5)))
    (folder / "empty.txt").write_text("\n \n\n")
    return folder
