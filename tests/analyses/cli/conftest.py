"""A shelf of tiny checkpoints and texts, and the command line run in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Result, in_process
from families import tiny
from refused import bypassing
from words import documents, save


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
    yield from in_process(monkeypatch, capfd)


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
