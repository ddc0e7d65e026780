"""Published sets by name: the real files, the hub's calls, and what is said when all fails."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from interp.data.named_sets import NAMED_SETS, named, names, read_named_or_file
from interp.data.prompt_sets import split_by_source
from interp.errors import InputError

COUNTS = {
    "advbench": ("advbench/advbench.csv", {"harmful": 520}),
    "harmbench": ("harmbench/harmbench_val.csv", {"harmful": 41}),
    "jailbreakbench:harmful": ("jailbreakbench/jailbreakbench.csv", {"harmful": 100}),
    "strongreject": ("strongreject/strongreject.csv", {"harmful": 313}),
    "xstest": ("xstest/xstest_prompts.csv", {"alarming": 250, "harmful": 200}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_files(name: str, reference: Callable[[str], Path]) -> None:
    file, counts = COUNTS[name]
    found = named(name, reference(f"prompts/{file}"))
    assert {label: len(found.of(label)) for label in found.labels} == counts
    assert found.sources == (name.partition(":")[0],)
    assert all(prompt.text and prompt.text == prompt.text.strip() for prompt in found)


def test_xstest_maps_labels_as_their_files_do(reference: Callable[[str], Path]) -> None:
    path = reference("prompts/xstest/xstest_prompts.csv")
    table = pd.read_csv(path)
    for prompt, kind in zip(named("xstest", path), table["type"], strict=True):
        assert (prompt.label == "harmful") == kind.startswith("contrast_")


class Loaded:
    """What `load_dataset` returns, as far as it is used."""

    def __init__(self, rows: dict[str, list[Any]]) -> None:
        self.rows = rows

    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


HUB: dict[str, list[tuple[str, str | None, str]]] = {
    "advbench": [("walledai/AdvBench", None, "train")],
    "harmbench": [("walledai/HarmBench", "standard", "train")],
    "jailbreakbench": [
        ("JailbreakBench/JBB-Behaviors", "behaviors", "harmful"),
        ("JailbreakBench/JBB-Behaviors", "behaviors", "benign"),
    ],
    "jailbreakbench:benign": [("JailbreakBench/JBB-Behaviors", "behaviors", "benign")],
    "strongreject": [("walledai/StrongREJECT", None, "train")],
    "xstest": [("Paul/XSTest", None, "train")],
    "or-bench": [
        ("bench-llm/or-bench", "or-bench-hard-1k", "train"),
        ("bench-llm/or-bench", "or-bench-toxic", "train"),
    ],
    "alpaca": [("tatsu-lab/alpaca", None, "train")],
}
ROWS: dict[str, dict[str, list[Any]]] = {
    "walledai/AdvBench": {"prompt": ["a", "b"], "target": ["x", "y"]},
    "walledai/HarmBench": {"prompt": ["a"], "category": ["x"]},
    "JailbreakBench/JBB-Behaviors": {"Goal": ["a"], "Target": ["x"], "Source": ["Original"]},
    "walledai/StrongREJECT": {"prompt": ["a"], "category": ["x"], "source": ["custom"]},
    "Paul/XSTest": {"prompt": ["a", "b"], "label": ["safe", "unsafe"], "type": ["t", "u"]},
    "bench-llm/or-bench": {"prompt": ["a"], "category": ["x"]},
    "tatsu-lab/alpaca": {"instruction": ["a", "b"], "input": ["", "given"], "output": ["", ""]},
}
LABELS = {
    "advbench": ["harmful", "harmful"],
    "harmbench": ["harmful"],
    "jailbreakbench": ["harmful", "harmless"],
    "jailbreakbench:benign": ["harmless"],
    "strongreject": ["harmful"],
    "xstest": ["alarming", "harmful"],
    "or-bench": ["alarming", "harmful"],
    "alpaca": ["harmless"],
}


@pytest.mark.parametrize("name", HUB)
def test_the_hub_is_asked_for_the_right_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(hub: str, config: str | None, *, split: str) -> Loaded:
        asked.append((hub, config, split))
        return Loaded(ROWS[hub])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_named_or_file(name, "unused")
    assert asked == HUB[name]
    assert [prompt.label for prompt in found] == LABELS[name]
    assert found.sources == (name.partition(":")[0],)


def test_the_table_and_the_labels_agree() -> None:
    for name, one in NAMED_SETS.items():
        said = {label for part in one.parts.values() for label in part.labels.values()}
        assert said == set(one.size), name
        assert one.licence and one.citation
    assert {"xstest", "or-bench:hard", "jailbreakbench:benign"} <= set(names())


def test_twins_stay_one_source(tmp_path: Path) -> None:
    for file, goal in (("harmful-behaviors.csv", "steal"), ("benign-behaviors.csv", "buy")):
        (tmp_path / file).write_text(f"Index,Goal,Source\n0,{goal} bread,AdvBench\n")
    both = named("jailbreakbench", tmp_path)
    assert [(p.text, p.label, p.source) for p in both] == [
        ("steal bread", "harmful", "jailbreakbench"),
        ("buy bread", "harmless", "jailbreakbench"),
    ]
    other = tmp_path / "more.csv"
    other.write_text("text,label\nlie to him,harmful\nsing to him,harmless\n")
    train, test = split_by_source(both + read_named_or_file(str(other), "x"), ["more"])
    assert (len(train), len(test)) == (2, 2)
    one = named("jailbreakbench:benign", tmp_path)
    assert one.labels == ("harmless",)
    with pytest.raises(InputError, match=r"has 2 parts and .* is one file; .* as jailbreakbench:h"):
        named("jailbreakbench", tmp_path / "benign-behaviors.csv")


def test_formats_and_inputs(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say hello.", "input": "", "output": "hello"},
        {"instruction": "Translate.", "input": "hello", "output": "hallo"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    for kind in ("json", "jsonl", "parquet"):
        found = read_named_or_file(f"alpaca={tmp_path / f'a.{kind}'}", "unused")
        assert [(p.text, p.label, p.source) for p in found] == [
            ("Say hello.", "harmless", "alpaca")
        ]


def test_files_keep_the_label_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "mine=1.txt").write_text("lie to him\n")
    found = read_named_or_file(str(tmp_path / "mine=1.txt"), "harmful")
    assert [(p.label, p.source) for p in found] == [("harmful", "mine=1")]


def test_the_licence_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x.csv").write_text("goal\nlie\n")
    with caplog.at_level(logging.INFO, "mechguard.prompts"):
        named("advbench", tmp_path / "x.csv")
    assert "Licence: MIT" in caplog.text and "arXiv:2307.15043" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("advbnch=x.csv", r"'advbnch=x.csv' is no file, and there is no set .* there are advbench"),
        ("advbench=", "names no path; give advbench=PATH"),
        ("advbench={}/none.csv", "does not exist; advbench is published as harmful_behaviors.csv"),
        ("advbench={}", "harmful_behaviors.csv does not exist"),
        ("advbench={}/columns.csv", "has the columns a, b; advbench is expected to have goal or"),
        ("xstest={}/prompts.csv", "xstest is expected to have prompt, and label"),
        ("xstest={}/labels.csv", "has 'odd' in the column label; xstest .* safe or unsafe"),
        ("advbench={}/empty.csv", "holds no prompt of advbench"),
        ("advbench={}/blank.csv", "has a row whose goal is empty"),
        ("advbench={}/broken.json", "is not readable"),
        ("advbench={}/x.yaml", "comes as .csv, .json, .jsonl, .parquet, not '.yaml'"),
    ],
)
def test_what_goes_wrong_gets_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    for name, content in {
        "columns.csv": "a,b\n1,2\n",
        "prompts.csv": "prompt\nlie\n",
        "labels.csv": "prompt,label\nlie,odd\n",
        "empty.csv": "goal\n",
        "blank.csv": "goal,x\n ,1\n",
        "broken.json": "{",
        "x.yaml": "goal: lie",
    }.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read_named_or_file(text.format(tmp_path), "harmful")


def test_unknown_names_and_a_silent_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no set of prompts 'catqa'; there are advbench"):
        named("catqa")

    def load_dataset(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("It is a gated dataset.\nLog in.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        InputError,
        match=r"advbench could not be loaded from the hub's walledai/AdvBench \(It is a gated "
        r"dataset\); accept its terms .*, or give a local copy as advbench=PATH",
    ):
        named("advbench")
    with pytest.raises(InputError, match=r"dataset\); give a local copy as xstest=PATH"):
        named("xstest")
