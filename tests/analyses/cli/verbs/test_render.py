"""`mechguard render`: the page again, without the model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analyses.sinks.run import sinks

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Path:
    """A report, made once."""
    from interp.resolve import load

    out = tmp_path_factory.mktemp("made")
    checkpoint = load(shelf / "llama")
    texts = [shelf / "words.txt", shelf / "other.jsonl"]
    sinks(checkpoint, texts, length=12, causal_sequences=2).save(out)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "report")
    return tmp_path / "report"


def test_a_lost_page_is_rebuilt_to_the_letter(run: Run, folder: Path) -> None:
    page = folder / "report.html"
    before = page.read_bytes()
    page.unlink()
    result = run("render", folder)
    assert result.code == 0 and result.out == f"{page}\n" and result.err == ""
    assert page.read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "tables"}


def test_tables_are_not_touched(run: Run, folder: Path) -> None:
    table = folder / "tables" / "sinks" / "heads.csv"
    table.write_text("mine")
    assert run("render", folder).code == 0
    assert table.read_text() == "mine"


def _edited(report: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**report, **changes})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda report: json.dumps(report)[:200], "is not valid JSON"),
        (lambda report: "[1, 2]", "has no field 'kind'"),
        (lambda report: _edited(report, format_version=99), "format version 99"),
        (lambda report: _edited(report, heads=[{"layer": 0}]), "cannot be drawn"),
    ],
)
def test_a_broken_report_is_named_and_the_page_stays(
    run: Run, folder: Path, damage: Callable[[dict[str, Any]], str], words: str
) -> None:
    path = folder / "report.json"
    page = (folder / "report.html").read_bytes()
    path.write_text(damage(json.loads(path.read_text())))
    run("render", folder).assert_refused(2, "report.json", words)
    assert (folder / "report.html").read_bytes() == page


def test_a_folder_without_a_report_is_named(run: Run, tmp_path: Path) -> None:
    run("render", tmp_path).assert_refused(2, "There is no", "report.json")
    run("render", tmp_path / "absent").assert_refused(2, "There is no", "report.json")
