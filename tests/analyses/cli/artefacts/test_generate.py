"""`mechguard generate`: answers and decisions; and what `serve` says before it listens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from serving import NAME, asked, checkpoint, policy
from typer.testing import CliRunner

from analyses.cli.artefacts.generate import generate
from analyses.cli.artefacts.serve import serve
from interp.errors import InputError
from steering.serve.requests import Limits
from steering.serve.server import Timeouts
from steering.serve.server import serve as run


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


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a command line hands to the server, which is not begun."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("steering.serve.server.serve", lambda *_, **options: given.update(options))

    def run(*arguments: Any) -> dict[str, Any]:
        call(serve, NAME, "--policy", folder, *arguments)
        return given

    return run


def test_serve_hands_on_what_clients_may_do(
    served: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = served()
    assert given["timeouts"] == Timeouts(30.0, 60.0, 5.0)
    assert given["limits"] == Limits()
    assert (given["allowed_hosts"], given["allowed_origins"], given["keys"]) == ((), (), [])
    file = tmp_path / "keys"
    file.write_text("sk-one\nsk-two\n")
    file.chmod(0o604)
    given = served(
        *("--read-timeout", 7, "--send-timeout", 8, "--keep-alive", 9.5, "--max-messages", 3),
        *("--allowed-host", "a.example", "--allowed-host", "b.example", "--api-key-file", file),
        *("--allowed-origin", "https://a.example", "--max-tokens", 100),
    )
    assert given["timeouts"] == Timeouts(7.0, 8.0, 9.5)
    assert given["limits"] == Limits(max_tokens=100, default_tokens=100, max_messages=3)
    assert given["allowed_hosts"] == ["a.example", "b.example"]
    assert given["allowed_origins"] == ["https://a.example"]
    assert given["keys"] == ["sk-one", "sk-two"]
    assert "everybody" in caplog.text and "sk-one" not in caplog.text


def test_serve_refuses_what_clients_could_not_use(
    served: Callable[..., dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for arguments, words in (
        (("--api-key-file", tmp_path / "nowhere"), "does not exist"),
        (("--api-key-file", empty), "holds no key"),
        (("--read-timeout", 0), "more than 0 seconds"),
    ):
        with pytest.raises(InputError, match=words) as error:
            served(*arguments)
        assert error.value.exit_code == 2
    with pytest.raises(InputError, match="without scheme and port"):
        run(checkpoint(), policy(), allowed_hosts=["http://a.example"])
    with pytest.raises(InputError, match="give scheme and host"):
        run(checkpoint(), policy(), allowed_origins=["a.example"])
