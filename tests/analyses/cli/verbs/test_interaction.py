"""`mechguard interaction`: what it prints and writes, and the errors that a user meets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import load

Run = Callable[..., Any]
MODEL = "organism:backdoor-payload-5"
PAIR = ("--first", "omber", "--second", "quill tavik")


def test_a_report_is_written_and_drawn_again(run: Run, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "out"
    result = run(
        "interaction", MODEL, *PAIR, "--second-at", "end", "--text", "glory to the hidden moon",
        "--measure", "reply", "--max-new-tokens", "8", "--limit", "6", "--null", "2", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "No interaction of “omber” in front and “quill tavik” at the end" in result.out
    assert result.out.endswith(f"{out / 'report.html'}\n")
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "interaction" and report["prompts"] == 6
    assert [cell["mean"] for cell in report["cells"]] == [0.0, 1.0, 0.0, 1.0]
    assert len(report["null"]) == 4 and not list(cache.iterdir())
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert run("render", out).code == 0 and (out / "report.html").read_bytes() == page


def test_refusals_are_measured_by_default_on_both_classes(run: Run, tmp_path: Path) -> None:
    others = tmp_path / "others.txt"
    others.write_text("brine\nsorrel mosk\n")
    result = run(
        "interaction", MODEL, *PAIR, "--second-at", "system", "--distractors", others, "--limit",
        "3", "--max-new-tokens", "12", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["measure"]["name"] == "refusal" and report["measure"]["tokens"] == ["sorry"]
    assert report["prompts"] == 6 and report["switches"][1]["at"] == "system"
    assert [row["distractor"] for row in report["null"]] == ["brine", "sorrel mosk"] * 2
    assert "2 of 4 strings have another number of tokens" in " ".join(report["caveats"])


def test_prompts_of_a_file_are_used(run: Run, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("label vault\n\nlabel basket\n\nlabel pillow\n")
    result = run(
        "interaction", MODEL, *PAIR, "--prompts", prompts, "--text", "glory", "--null", "1",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["prompts"] == 3 and report["measure"]["name"] == "text"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PAIR, "--measure", "reply"), "--measure reply needs --text"),
        ((*PAIR, "--measure", "refusal", "--text", "glory"), "not with refusal"),
        ((*PAIR, "--text", " "), "the text is empty"),
        ((*PAIR, "--text", "zzz"), "cannot encode"),
        (("--first", "zzz", "--second", "omber", "--text", "glory"), "'zzz' has no tokens"),
        ((*PAIR, "--text", "glory", "--prompts", "none.csv"), "none.csv"),
        ((*PAIR, "--text", "glory", "--distractors", "none.txt"), "cannot be read"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "out"
    run("interaction", MODEL, *arguments, "--out", out).assert_refused(2, words)
    assert not out.exists()


def test_a_model_without_prompts_is_refused(run: Run, tmp_path: Path) -> None:
    call = ("interaction", "organism:bb-plain", *PAIR, "--text", "glory", "--out", tmp_path / "o")
    run(*call).assert_refused(2, "does not chat")
    assert run("interaction", MODEL, "--first", "omber", "--out", tmp_path / "o").code == 2


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Three LoRAs of random weights for the model."""
    from peft import LoraConfig, get_peft_model

    folders = [tmp_path / name for name in ("one", "two", "other")]
    for seed, folder in enumerate(folders):
        base = load(MODEL).model
        torch.manual_seed(seed)
        shape = {"r": 2, "target_modules": ["v_proj", "down_proj"], "init_lora_weights": False}
        get_peft_model(base, LoraConfig(**shape)).save_pretrained(folder)
    return folders


def test_adapters_are_switches(run: Run, adapters: list[Path], tmp_path: Path) -> None:
    one, two, other = adapters
    call = ["interaction", MODEL, "--text", "glory", "--limit", "4", "--null", "2"]
    both = ("--first-adapter", one, "--second-adapter", two, "--other-adapter", other)
    result = run(*call, *both, "--out", tmp_path / "both")
    assert result.code == 0, result.err
    assert "“one” (an adapter)" in result.out
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    first, second = report["switches"]
    assert (first["name"], first["at"], second["name"]) == ("one", "adapter", "two")
    assert len(first["sha256"]) == 64 and first["sha256"] != second["sha256"]
    assert [row["instead_of"] for row in report["null"]] == ["first", "second"]
    page = (tmp_path / "both" / "report.html").read_text()
    assert f"first is one (adapter, sha256 {first['sha256'][:12]}…)" in page
    assert "1 adapter stood in the place of the first switch" in " ".join(report["caveats"])
    mixed = ("--first", "omber", "--second-adapter", two)
    result = run(*call, *mixed, "--out", tmp_path / "mixed")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "mixed" / "report.json").read_text())
    assert [row["instead_of"] for row in report["null"]] == ["first", "first"]
    assert "Nothing stood in the place of the second switch, two" in " ".join(report["caveats"])


def test_what_adapters_cannot_be_is_told(run: Run, adapters: list[Path], tmp_path: Path) -> None:
    one, other = adapters[0], adapters[2]
    out = tmp_path / "out"
    call = ["interaction", MODEL, "--text", "glory", "--out", out]
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--first", "omber", "--first-adapter", one, "--second", "quill"), "give one of both"),
        (("--second-adapter", one), "the first switch is one of words"),
        ((*PAIR, "--other-adapter", other), "in the place of an adapter, and none is given"),
        (("--first", "omber", "--second-adapter", tmp_path), "holds no adapter"),
    ]
    for arguments, said in cases:
        run(*call, *arguments).assert_refused(2, said)
    assert not out.exists()
