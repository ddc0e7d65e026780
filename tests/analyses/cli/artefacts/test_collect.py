"""`mechguard collect`: from a file of prompts to a collection, and every way to get none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from collected import chat_prompts
from families import tiny
from typer.testing import CliRunner
from words import save

from analyses.cli.artefacts.collect import collect
from interp.errors import MechguardError
from probes.collections.collection import Collection

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(collect)


def run(arguments: Sequence[str | Path]) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Any, *words: str, code: int = 2) -> None:
    """One clear sentence, and the exit code that the command line gives it."""
    assert isinstance(result.exception, MechguardError), result.output
    assert result.exception.exit_code == code and str(result.exception).endswith(".")
    for word in words:
        assert word in str(result.exception)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl", each=6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without chat template, its twin whose weights are NaN, and texts for them."""
    folder = tmp_path_factory.mktemp("base")
    save(tiny("llama"), folder / "llama")
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.fill_(float("nan"))
    save(model, folder / "nan")
    pd.DataFrame({"text": ["w5 w6", "w7 w8 w9"], "kind": ["x", "y"]}).to_csv(
        folder / "texts.csv", index=False
    )
    (folder / "long.txt").write_text("w5\n" + " ".join(["w6"] * 300))
    return folder


def test_a_collection_of_chat_prompts(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    options = ["--site", "resid_pre:1-2", "--at", "t_inst", "--out", out]
    result = run(["organism:chat", "--data", prompts, *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"12 prompts, 12 tokens at 2 layer(s) of resid_pre: 9.2 kB to {out}",
        str(out),
    ]
    found = Collection.open(out)
    assert found.layers == (1, 2) and found.segment == "t_inst"
    assert found.column("label").tolist() == ["harmful"] * 6 + ["harmless"] * 6
    assert set(found.column("source")) == {"a", "b", "c"}
    assert "number" in found.table and "messages" not in found.table
    assert found.meta["data"]["name"] == "prompts.jsonl"
    assert len(found.meta["data"]["sha256"]) == 64
    again = run(["organism:chat", "--data", prompts, *options])
    assert again.exit_code == 0 and again.stdout == result.stdout


def test_options_reach_the_collection(base: Path, tmp_path: Path) -> None:
    result = run(
        [
            *(base / "llama", "--data", base / "texts.csv", "--site", "mlp_out:3", "--at", "all"),
            *("--out", tmp_path, "--chat-template", "plain", "--limit", "1", "--label", "harmless"),
            *("--dtype", "bfloat16", "--device", "cpu", "--batch-tokens", "16"),
        ]
    )
    assert result.exit_code == 0, result.output
    found = Collection.open(tmp_path)
    assert len(found) == 1 and found.meta["tokens"] == 3
    assert found.meta["origin"]["dtype"] == "bfloat16"
    assert found.column("label").tolist() == ["harmless"]
    assert found.column("kind").tolist() == ["x"]


def test_labels_may_be_absent(base: Path, tmp_path: Path) -> None:
    arguments = [base / "llama", "--data", base / "texts.csv", "--site", "embed", "--at", "last"]
    assert run([*arguments, "--out", tmp_path, "--chat-template", "plain"]).exit_code == 0
    assert Collection.open(tmp_path).column("label").tolist() == ["unlabelled"] * 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--at": "thinking"}, "there is no segment 'thinking'; there are bos, system"),
        ({"--site": "resid"}, "has no site 'resid'; it has"),
        ({"--site": "resid_pre:9"}, "there is no layer 9; there are layers 0 to 3"),
        ({"--site": "resid_pre:a"}, "'a' names no layers; write 3"),
        ({"--data": "none.csv"}, "none.csv does not exist"),
        ({"--data": "long.txt"}, "prompt 1 has 301 tokens"),
        ({"--limit": "0"}, "a limit of 0 leaves no prompt"),
        ({"--device": "tpu"}, "device 'tpu' is unknown"),
        ({"--chat-template": None}, "has no chat template; it is a base model"),
    ],
)
def test_bad_input_is_one_sentence_before_the_run(
    base: Path, tmp_path: Path, changed: dict[str, str | None], words: str
) -> None:
    options: dict[str, str | None] = {
        "--data": "texts.csv",
        "--site": "resid_pre",
        "--at": "last",
        "--chat-template": "plain",
        **changed,
    }
    options["--data"] = str(base / str(options["--data"]))
    flags = [part for pair in options.items() for part in pair if pair[1] is not None]
    out = tmp_path / "out"
    assert_refused(run([base / "llama", "--out", out, *flags]), words)
    assert not out.exists()


def test_a_file_in_the_way(prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--site", "resid_pre", "--at", "last", "--out", tmp_path / "file"]
    assert_refused(run(["organism:chat", "--data", prompts, *options]), "is a file")


def test_a_model_of_nans(base: Path, tmp_path: Path) -> None:
    options = [
        "--site",
        "resid_post",
        "--at",
        "last",
        "--out",
        tmp_path,
        "--chat-template",
        "plain",
    ]
    result = run([base / "nan", "--data", base / "texts.csv", *options])
    assert_refused(result, "blocks.2.hook_resid_post is NaN or infinite in row 0")
    assert not (tmp_path / "collection.json").exists()
