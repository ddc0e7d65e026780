"""Prompt sets: reading, splitting without leaks, and freeing from confounds."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.data.prompt_sets import (
    Prompt,
    PromptSet,
    builtin,
    equalise,
    read_prompts,
    split_at_random,
    split_by_source,
    without_duplicates,
)
from interp.errors import InputError


def prompts(*texts: str, label: str = "harmful", source: str = "here") -> PromptSet:
    return PromptSet(
        tuple(Prompt(({"role": "user", "content": text},), label, source) for text in texts)
    )


def test_builtin_prompts_are_many_matched_and_different() -> None:
    table = builtin().frame()
    counts = Counter(table["label"])
    assert counts["harmful"] >= 128 and counts["harmless"] >= 128 and counts["alarming"] >= 64
    assert table["text"].str.casefold().is_unique
    assert table["last"].str.isalnum().all() and not table["text"].str.contains("  ").any()
    harmful, harmless = (builtin().of(label).frame() for label in ("harmful", "harmless"))
    assert len(harmful) == len(harmless)
    gaps = harmful["words"].to_numpy() - harmless["words"].to_numpy()
    assert abs(gaps).max() <= 2 and abs(gaps.mean()) < 0.2
    opened = [
        a.split()[0] == b.split()[0] for a, b in zip(harmful.text, harmless.text, strict=True)
    ]
    assert all(opened)
    equal = equalise(builtin())
    assert equal.length_auroc[0] < 0.55 and equal.mark_auroc == (0.5, 0.5)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".json", ".txt"])
def test_every_format(tmp_path: Path, suffix: str) -> None:
    texts = ["Write a note", "NA", "Paint, or draw"]
    path = tmp_path / f"mine{suffix}"
    table = pd.DataFrame({"Goal": texts})
    if suffix == ".csv":
        table.to_csv(path)
    elif suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"prompt": text}) for text in texts) + "\n")
    else:
        path.write_text(json.dumps(texts) if suffix == ".json" else "\n".join(texts))
    read = read_prompts(path, "harmless")
    assert [prompt.text for prompt in read] == texts
    assert read.labels == ("harmless",) and read.sources == ("mine",)
    assert read.sha256 == read_prompts(path, "harmless").sha256
    assert read.sha256 != read_prompts(path, "harmful").sha256


def test_groups_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,group\nPaint a door!,one\nPaint a wall!,\nPaint a gate!,one\n")
    read = read_prompts(path, "harmless")
    assert [prompt.group for prompt in read] == ["one", None, "one"]
    other = prompts("Break a door", "Break a wall")
    assert [p.group for p in equalise(read + other).prompts][:2] == ["one", None]


def test_messages_labels_and_sources_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    rows = [{"messages": said, "label": "safe", "source": "a"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    (prompt,) = read_prompts(path, relabel={"safe": "alarming"})
    assert prompt.messages == tuple(said) and prompt.text == "Hello"
    assert (prompt.label, prompt.source) == ("alarming", "a")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("", "x.txt", "holds no prompt"),
        ("a\n", "x.csv", "holds no prompt"),
        ("colour\nred\n", "x.csv", "it needs `messages` or one of text"),
        ("text\nhello\n", "x.csv", "prompts without a label"),
        ("text,label\nhello,\n", "x.csv", "prompts without a label"),
        ('{"text": "a"}\n{', "x.jsonl", "not readable as .jsonl"),
        ('{"messages": [], "label": "a"}', "x.jsonl", "does not end with words of the user"),
        ('{"text": 3, "label": "a"}', "x.jsonl", "does not end with words of the user"),
        ("a", "x.docx", "prompts come as .csv"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, name: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / name)


def test_missing_files_and_data_sets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "x.csv", "harmful")
    with pytest.raises(InputError, match="neither a file nor a data set"):
        read_prompts("nobody/nothing", "harmful")


def test_duplicates_are_dropped_from_later_sets() -> None:
    first = prompts("Write a note!", "write  a NOTE", "Draw")
    second = prompts("draw.", "Paint")
    one, other = without_duplicates(first, second)
    assert [p.text for p in one] == ["Write a note!", "Draw"]
    assert [p.text for p in other] == ["Paint"]


def test_splits_by_source_share_nothing() -> None:
    every = (
        prompts("a", "b", source="x")
        + prompts("c", label="harmless", source="x")
        + prompts("B!", "d", source="y")
        + prompts("e", label="harmless", source="y")
    )
    train, test = split_by_source(every, ["y"])
    assert [p.text for p in test] == ["B!", "d", "e"]
    assert [p.text for p in train] == ["a", "c"]  # "b" is in the test side
    with pytest.raises(InputError, match="there is no source z; there are x, y"):
        split_by_source(every, ["z"])
    with pytest.raises(InputError, match="each side needs a source of every label"):
        split_by_source(every.of("harmful") + prompts("f", label="harmless", source="x"), ["y"])


def test_random_splits_keep_the_mixture() -> None:
    every = builtin()
    parts = split_at_random(every, [0.6, 0.2, 0.2], seed=1)
    assert sum(map(len, parts)) == len(every)
    texts = [{p.text for p in part} for part in parts]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    for part, share in zip(parts, [0.6, 0.2, 0.2], strict=True):
        assert Counter(p.label for p in part)["harmful"] == pytest.approx(130 * share, abs=1)
    assert parts == split_at_random(every, [0.6, 0.2, 0.2], seed=1)
    assert parts != split_at_random(every, [0.6, 0.2, 0.2], seed=2)
    with pytest.raises(InputError, match="sum to 1"):
        split_at_random(every, [0.6, 0.2])


def test_random_splits_keep_groups_together() -> None:
    alone = builtin()
    every = PromptSet(
        tuple(replace(p, group=f"wording {i % 26}" if i % 3 else None) for i, p in enumerate(alone))
    )
    for seed in range(5):
        parts = split_at_random(every, [0.6, 0.2, 0.2], seed=seed)
        assert sum(map(len, parts)) == len(every)
        groups = [{p.group for p in part if p.group} for part in parts]
        assert all(groups) and sum(map(len, groups)) == 26


def test_equalising_takes_marks_and_lengths_away() -> None:
    harmful = prompts("do it", "now do it", "please do it now my friend and take your time")
    harmless = prompts("sing?", "sing it?!", "sing a song.", label="harmless")
    result = equalise(harmful + harmless + prompts("left alone?", label="alarming"))
    assert [p.text for p in result.prompts.of("harmless")] == ["sing it", "sing a song"]
    assert [p.text for p in result.prompts.of("harmful")] == ["do it", "now do it"]
    assert result.prompts.of("alarming").prompts[0].text == "left alone"
    assert result.dropped == {"harmful": 1, "harmless": 1}
    assert result.mark_auroc == (1.0, 0.5)
    assert result.length_auroc[1] == 0.5 < result.length_auroc[0]
    kept = equalise(harmful + harmless, final_punctuation=False, length=False)
    assert kept.prompts == harmful + harmless and kept.mark_auroc == (1.0, 1.0)


def test_nothing_to_equalise() -> None:
    with pytest.raises(InputError, match="there are no 'harmless' prompts; there are harmful"):
        equalise(prompts("a"))
    with pytest.raises(InputError, match="has as many words"):
        equalise(prompts("a") + prompts("a b c d e f", label="harmless"))


def test_the_confound_of_real_data(reference: Callable[[str], Path]) -> None:
    harmful = read_prompts(reference("prompts/advbench/advbench.csv"), "harmful")
    harmless = read_prompts(reference("prompts/seed_tasks/seed_tasks.jsonl"), "harmless")
    assert len(harmful) == 520 and len(harmless) == 175
    result = equalise(harmful + harmless)
    assert result.mark_auroc[0] > 0.9 and result.mark_auroc[1] <= 0.52
    assert result.length_auroc[1] == 0.5 < result.length_auroc[0]
    assert len(result.prompts.of("harmful")) == len(result.prompts.of("harmless")) > 50


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("harmbench/harmbench_val.csv", 80),
        ("jailbreakbench/jailbreakbench.csv", 100),
        ("strongreject/strongreject.csv", 313),
        ("xstest/xstest_prompts.csv", 450),
    ],
)
def test_published_sets_load(reference: Callable[[str], Path], file: str, count: int) -> None:
    path = reference(f"prompts/{file}")
    read = read_prompts(path, "harmful", relabel={"safe": "alarming", "unsafe": "harmful"})
    assert 0.97 * count <= len(read) <= count
    assert "harmful" in read.labels and ("alarming" in read.labels) == ("xstest" in file)


def test_a_path_is_no_set_of_prompts() -> None:
    wrong: Any
    for wrong in ("mine.csv", ["a", "b"], ("a", "b")):
        with pytest.raises(InputError, match=r"must be of type .*mechguard\.read_prompts\(path"):
            PromptSet(wrong)
