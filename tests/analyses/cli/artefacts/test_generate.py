"""`mechguard generate`: answers and decisions; and what `serve` says before it listens."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from serving import NAME, asked, policy
from typer.testing import CliRunner

from analyses.cli.artefacts.generate import generate
from analyses.cli.artefacts.serve import serve
from interp.errors import InputError


def call(verb: Any, *arguments: Any) -> str:
    app = typer.Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    policy().save(path)
    return path


def test_an_answer_with_a_policy_and_without(folder: Path) -> None:
    one = asked()[0]
    given = (NAME, "--prompt", one.text, "--max-new-tokens", 12)
    assert call(generate, *given).strip() == one.off
    assert call(generate, NAME, "--prompt", one.text).strip() == one.off  # as much as there is room
    assert call(generate, *given, "--policy", folder).strip() == one.on
    assert call(generate, *given, "--policy", folder, "--strength", 0).strip() == one.off


def test_decisions_row_by_row(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([one.text for one in asked()]))
    given = (NAME, "--messages", file, "--policy", folder, "--max-new-tokens", 12, "--json")
    lines = [json.loads(line) for line in call(generate, *given).splitlines()]
    assert [line["answer"] for line in lines] == [one.on for one in asked()]
    assert [line["decisions"][0]["open"] for line in lines] == [one.open for one in asked()]
    assert set(lines[0]["decisions"][0]) == {"policy", "score", "gate", "scale", "open"}


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((NAME,), "either --prompt TEXT or --messages FILE"),
        ((NAME, "--prompt", "a", "--messages", "b.json"), "either"),
        (("organism:chat", "--prompt", "wash apron", "--policy", folder), "belongs to"),
        ((NAME, "--prompt", "wash apron", "--policy", tmp_path), "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            call(generate, *arguments)
    with pytest.raises(InputError, match="belongs to"):
        call(serve, "organism:chat", "--policy", folder)


def test_without_the_extra_it_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(InputError, match=r"pip install 'mechguard\[serve\]'"):
        call(serve, NAME, "--policy", folder)
