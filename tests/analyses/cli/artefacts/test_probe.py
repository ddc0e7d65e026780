"""`mechguard probe`: a probe fitted, saved and evaluated on the command line."""

from pathlib import Path
from typing import Any

import pytest
from collected import chat_prompts, planted
from typer.testing import CliRunner

import interp
from analyses.cli.artefacts.probe import app
from interp.data.prompt_sets import read_prompts
from interp.errors import MechguardError
from probes.collections.collection import collect
from probes.collections.fitted_probe import FittedProbe
from probes.collections.plan import plan_collection


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Any, *words: str) -> None:
    assert isinstance(result.exception, MechguardError), result.output
    assert result.exception.exit_code == 2 and str(result.exception).endswith(".")
    for word in words:
        assert word in str(result.exception)
    assert result.stdout == ""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    prompts = read_prompts(chat_prompts(folder / "prompts.jsonl"))
    checkpoint = interp.load("organism:chat")
    plan = plan_collection(checkpoint, prompts, site="resid_pre", segment="t_inst")
    return collect(checkpoint, plan, folder / "out").folder


def test_harmfulness_is_read_off_the_chat_organism(chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "probe.safetensors"
    result = run("fit", chat, "--label", "label", "--positive", "harmful", "--out", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "cross-validated AUROC" in result.stdout and "n+" in result.stdout
    assert any(line.startswith("null: with 500 shuffles") for line in lines)
    assert any(line.startswith("no TPR at 1 % FPR: ") for line in lines)
    assert any(line.startswith("floors: the words of the prompts reach ") for line in lines)
    assert lines[-1] == str(out)
    probe = FittedProbe.load(out)
    assert probe.meta["metrics"]["auroc"] > 0.95 and probe.layers in ((1,), (2,))
    assert probe.meta["metrics"]["auroc"] > probe.meta["metrics"]["null"]["q95"]
    assert probe.meta["origin"]["fingerprint"] == interp.load("organism:chat").fingerprint


def test_options_reach_the_probe(tmp_path: Path) -> None:
    collection = planted(tmp_path / "c", lengths=(2, 4)).folder
    out = tmp_path / "probe.safetensors"
    result = run(
        *("fit", collection, "--label", "label", "--positive", "0", "--layers", "1-2"),
        *("--estimator", "lda", "--aggregate", "mean", "--stack", "concat"),
        *("--test-sources", "b,c", "--groups", "source", "--seed", "4", "--out", out),
    )
    # Two sources are left out, and the one that remains cannot be parted into folds.
    assert_refused(result, "there are 1 groups, too few for 5 folds")
    result = run(
        *("fit", collection, "--label", "label", "--positive", "0", "--layers", "1-2"),
        *("--estimator", "lda", "--aggregate", "mean", "--stack", "concat"),
        *("--test-sources", "b,c", "--seed", "4", "--out", out),
    )
    assert result.exit_code == 0, result.output
    probe = FittedProbe.load(out)
    assert probe.layers == (1, 2) and probe.aggregation.name == "mean"
    assert (probe.meta["estimator"], probe.meta["stack"], probe.meta["seed"]) == (
        "lda", "concat", 4,
    )  # fmt: skip
    assert probe.meta["positive"] == "0" and probe.meta["test"]["sources"] == ["b", "c"]
    assert probe.meta["metrics"]["auroc"] > 0.9


def test_a_token_probe_tells_why_it_has_no_null(tmp_path: Path) -> None:
    collection = planted(tmp_path / "c", n=60, lengths=(2, 4), signal=(0.0, 3.0)).folder
    out = tmp_path / "probe.safetensors"
    result = run("fit", collection, "--label", "label", "--aggregate", "max", "--out", out)
    assert result.exit_code == 0, result.output
    assert "null: none, because the null is defined for probes of one state" in result.stdout


def test_evaluation_by_source_and_what_it_leaves_out(tmp_path: Path) -> None:
    first, second = (planted(tmp_path / str(i), seed=i).folder for i in range(2))
    out = tmp_path / "probe.safetensors"
    assert run("fit", first, "--label", "label", "--out", out).exit_code == 0
    fresh = run("eval", out, second)
    assert fresh.exit_code == 0, fresh.output
    lines = [line.split() for line in fresh.stdout.splitlines() if line.strip()]
    assert lines[0] == [str(out), "on", f"{second}:"]
    assert [line[0] for line in lines[3:7]] == ["all", "a", "b", "c"]
    assert lines[3][1:3] == ["60", "60"] and float(lines[3][3]) > 0.9
    assert "left out" not in fresh.stdout
    own = run("eval", out, first, "--label", "label", "--positive", "1")
    assert "left out: 90 prompt(s) that the probe was fitted on." in own.stdout


def test_many_negatives_give_a_rate(tmp_path: Path) -> None:
    first = planted(tmp_path / "1").folder
    second = planted(tmp_path / "2", n=700, seed=1, source=["s"] * 700).folder
    out = tmp_path / "probe.safetensors"
    assert run("fit", first, "--label", "label", "--out", out).exit_code == 0
    found = run("eval", out, second).stdout
    assert "TPR at 1 % FPR" in found and "no TPR" not in found and " all " not in found


def test_a_probe_of_another_model_is_refused(chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "probe.safetensors"
    other = planted(tmp_path / "c").folder
    assert run("fit", other, "--label", "label", "--out", out).exit_code == 0
    assert_refused(run("eval", out, chat), "belongs to planted", "organism:chat is not the same")
    allowed = ("--allow", "fingerprint", "--allow", "tokenizer_hash")
    assert_refused(run("eval", out, chat, *allowed), "wide, but the residual")
    assert_refused(run("eval", other / "rows.csv", other), "no safetensors file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "verdict"], "has no column 'verdict'; it has index, label"),
        (["--label", "one"], "holds 120 positive and 0 negative prompts"),
        (["--label", "source"], "the labels are a, b, c; say which one counts as positive"),
        (["--label", "label", "--positive", "x"], "no row has the label 'x'"),
        (["--label", "label", "--layers", "7"], "there is no layer 7"),
        (["--label", "label", "--test-sources", "z"], "there is no source z"),
        (["--label", "label", "--test-share", "0"], "a test share of 0"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    collection = planted(tmp_path / "c", one=["1"] * 120).folder
    out = tmp_path / "probe.safetensors"
    assert_refused(run("fit", collection, "--out", out, *arguments), words)
    assert not out.exists()


def test_folders_that_are_none(tmp_path: Path) -> None:
    out = tmp_path / "none" / "probe.safetensors"
    collection = planted(tmp_path / "c").folder
    assert_refused(run("fit", collection, "--label", "label", "--out", out), "is no folder")
    missing = run("fit", tmp_path, "--label", "label", "--out", tmp_path / "p")
    assert_refused(missing, "has no readable collection.json")
