"""`mechguard guard`: fit and score, and the errors that a user meets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp import organisms
from interp.model import artifacts

Run = Callable[..., Any]
KEEP = "organism:jailbreak-keep"


@pytest.fixture
def guard(run: Run, tmp_path: Path) -> Path:
    out = tmp_path / "guard.safetensors"
    result = run("guard", "fit", KEEP, "--out", out)
    assert result.code == 0, result.err
    return out


def written(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(texts))
    return path


def texts(label: str, split: Any = "test") -> list[str]:
    return [prompt.text for prompt in organisms.prompts("jailbreak-keep", split)[label]]


def row(out: str, quantity: str) -> list[str]:
    line = next(line for line in out.splitlines() if line.strip().startswith(quantity))
    return line.split(quantity)[1].split()


def test_fit_prints_what_was_measured(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "guard.safetensors"
    result = run("guard", "fit", KEEP, "--out", out)
    assert result.code == 0, result.err
    assert result.out.strip().endswith(str(out)) and out.exists()
    assert row(result.out, "threshold")[1:] == ["set", "for", "FPR", "0.01"]
    assert row(result.out, "FPR, benign half not set on")[1] == "307"
    area = row(result.out, "AUROC, test")
    assert float(area[0]) >= 0.98 and area[1:3] == ["58", "+"] and area[-2] == "to"
    assert row(result.out, "TPR at 1.0% FPR, test")[1] == "58"
    assert "TPR at 0.1% FPR is not given: a false-positive rate of 0.001 needs" in result.out
    for label in ("harmless", "alarming", "distracted"):
        assert f"grammar   {label}" in result.out


def test_score_as_table_and_as_json(run: Run, guard: Path, tmp_path: Path) -> None:
    harmful, harmless = texts("jailbroken")[:3], texts("harmless")[:2]
    file = written(tmp_path / "asked.txt", harmful + harmless)
    result = run("guard", "score", guard, KEEP, "--messages", file)
    assert result.code == 0, result.err
    assert result.out.count("flagged") == 3 and result.out.count("passed") == 2
    assert "3 of 5 above the threshold" in result.out and harmful[0] in result.out
    result = run("guard", "score", guard, KEEP, "--messages", file, "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["flagged"] for line in lines] == [True] * 3 + [False] * 2
    assert [line["text"] for line in lines] == harmful + harmless
    assert all(0 < line["probability"] < 1 for line in lines)


def test_files_of_prompts(run: Run, tmp_path: Path) -> None:
    harmful = written(tmp_path / "bad.txt", texts("harmful", "train"))
    harmless = written(tmp_path / "good.txt", texts("harmless", "train"))
    benign = written(tmp_path / "traffic.txt", texts("alarming", "train"))
    files = ("--harmful", harmful, "--harmless", harmless, "--benign", benign)
    out = tmp_path / "guard.safetensors"
    result = run("guard", "fit", KEEP, *files, "--fpr", "0.03", "--out", out)
    assert result.code == 0, result.err
    assert row(result.out, "threshold")[1:] == ["set", "for", "FPR", "0.03"]
    assert "traffic" in result.out and "come from the same sources" in result.out
    surface = artifacts.load(out, "guard").meta["record"]["surface"]
    assert surface["length_auroc"][1] == 0.5 and set(surface["dropped"]) == {"harmful", "harmless"}
    told = " and ".join(f"{count} {label}" for label, count in surface["dropped"].items())
    assert f"{told} prompts without a match are left out" in result.out


def test_too_little_traffic_is_told(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "guard.safetensors"
    result = run("guard", "fit", KEEP, "--limit", "30", "--out", out)
    assert result.code == 0, result.err
    assert row(result.out, "threshold")[0] == "0.0000"
    assert "give --benign FILE with at least 6 / FPR prompts" in result.out


def test_as_published(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "guard.safetensors"
    result = run("guard", "fit", KEEP, "--method", "paper", "--out", out)
    assert result.code == 0, result.err
    assert row(result.out, "threshold")[:3] == ["0.0000", "as", "published,"]
    assert row(result.out, "FPR, benign half not set on")[1] == "307"
    assert "known for traffic" not in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fpr", "0.001"], ["needs 6000 benign prompts", "there are 614"]),
        (["--method", "nearest"], ["no guard 'nearest'"]),
        (["--method", "paper", "--fpr", "0.1"], ["leave --fpr out"]),
        (["--harmful", "{few}"], ["give both --harmful and --harmless"]),
        (["--harmful", "{few}", "--harmless", "{empty}"], ["holds no prompt"]),
        (["--harmful", "{few}", "--harmless", "{few}"], ["leave a class without a prompt"]),
        (["--harmful", "{many}", "--harmless", "{other}", "--fpr", "0.1"], ["--benign FILE"]),
        (["--benign", "{few}"], ["needs 600 benign prompts", "there are 2"]),
        (["--benign", "{none}"], ["does not exist"]),
    ],
)
def test_fit_refuses(run: Run, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    files = {
        "few": written(tmp_path / "few.txt", ["one", "two"]),
        "many": written(tmp_path / "many.txt", texts("harmful")),
        "other": written(tmp_path / "other.txt", texts("harmless")),
        "empty": written(tmp_path / "empty.txt", [""]),
        "none": tmp_path / "none.txt",
    }
    out = tmp_path / "out" / "guard.safetensors"
    given = [argument.format(**files) for argument in arguments]
    run("guard", "fit", KEEP, *given, "--out", out).assert_refused(2, *words)
    assert not out.parent.exists()


def test_models_that_cannot_be_guarded(run: Run, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "guard.safetensors"
    run("guard", "fit", shelf / "llama", "--out", out).assert_refused(2, "it is a base model")
    run("guard", "fit", "organism:bb-plain", "--out", out).assert_refused(2, "does not chat")
    run("guard", "fit", KEEP, "--out", tmp_path).assert_refused(2, "is a folder")
    assert not out.exists()


def test_score_refuses(run: Run, guard: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "asked.txt", texts("harmful")[:2])
    long = written(tmp_path / "long.txt", ["please bypass old alarm " * 40])
    erase = "organism:jailbreak-erase"
    score = ("guard", "score", guard)
    run(*score, erase, "--messages", file).assert_refused(2, "belongs to", "--allow fingerprint")
    allowed = run(*score, erase, "--messages", file, "--allow", "fingerprint")
    assert allowed.code == 0, allowed.err
    run(*score, KEEP, "--messages", long).assert_refused(2, "was built for 128")
    guard.write_bytes(guard.read_bytes()[:-40])
    run(*score, KEEP, "--messages", file).assert_refused(2, "is damaged")
