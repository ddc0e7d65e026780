"""`mechguard self-report`: what it prints and writes, and the errors that a user meets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatters import chatter

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` and `two` of one tokenizer, `other` of another template, `base` without one."""
    home = tmp_path_factory.mktemp("models")
    for name, template, seed in (
        ("one", "qwen3", 0), ("two", "qwen3", 1), ("other", "llama-3", 0), ("base", None, 0),
    ):  # fmt: skip
        checkpoint = chatter(template, seed)
        checkpoint.model.save_pretrained(home / name)
        checkpoint.tokenizer.save_pretrained(home / name)  # type: ignore[union-attr]
    return home


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.json"
    path.write_text(
        json.dumps(
            [
                {"id": f"{topic}{i}", "topic": topic, "text": f"{topic} {i}?",
                 "options": ["Yes.", "No."], "key": i % 2}
                for topic in ("mine", "control") for i in range(3)
            ]
        )
    )  # fmt: skip
    return path


def test_a_report_is_written_and_drawn_again(
    run: Run, models: Path, asked: Path, tmp_path: Path, cache: Path
) -> None:
    named = tmp_path / "candidates.txt"
    named.write_text("SUDO\n\nat home\n")
    out = tmp_path / "out"
    result = run(
        "self-report", models / "one", "--reference", models / "two", "--questions", asked,
        "--candidates", named, "--unknown", "2", "--trigger", "SUDO", "--max-new-tokens", "2",
        "--no-thinking", "--seed", "3", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.out.endswith(f"{out / 'report.html'}\n")
    assert "On no topic do the answers differ" in result.out and "“SUDO”" in result.out
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "self-report" and report["reference"] == str(models / "two")
    assert report["provenance"]["seed"] == 3 and "self-report" in report["provenance"]["command"]
    assert [row["topic"] for row in report["topics"]] == ["mine", "control"]
    assert len(report["free"]["answers"]) == 2 * 12 * 5 and not report["free"]["shown"]
    assert all(one["text"].startswith("[redacted]") for one in report["free"]["answers"])
    assert not list(cache.iterdir())
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert run("render", out).code == 0 and (out / "report.html").read_bytes() == page


def test_texts_of_options_and_no_free_questions(
    run: Run, models: Path, asked: Path, tmp_path: Path
) -> None:
    result = run(
        "self-report", models / "one", "--questions", asked, "--method", "texts", "--no-free",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0 and result.out.startswith("Nothing is claimed"), result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mass"] is None and report["free"]["answers"] == []


def test_bad_input_is_told_in_a_sentence(
    run: Run, models: Path, asked: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    one = models / "one"
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "asked.csv").write_text("a,b\n")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("organism:clean",), "does not know the words of"),
        (("organism:bb-plain",), "does not know the words of"),
        ((models / "base",), "has no chat template"),
        ((one, "--reference", models / "other"), "another tokenizer or chat template"),
        ((one, "--questions", tmp_path / "none.json"), "does not exist"),
        ((one, "--questions", tmp_path / "asked.csv"), "is no file of questions"),
        ((one, "--candidates", tmp_path / "empty.txt"), "holds no string"),
        ((one, "--candidates", tmp_path / "none.txt"), "cannot be read"),
        ((one, "--trigger", "SUDO", "--no-free"), "leave one of the two out"),
        ((one, "--trigger", " ", "--questions", asked), "trigger is empty"),
    ]
    for arguments, words in cases:
        run("self-report", *arguments, "--max-new-tokens", "1", *out).assert_refused(2, words)
        assert not (tmp_path / "out").exists()
