"""Selectors, and the examples they write."""

import json
from pathlib import Path

import pandas as pd
import pytest

from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError
from probes.cliff.example_selection import export_selected, intends_refusal, judged, select
from probes.cliff.rollouts import Rollout
from probes.scorers import Answer


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": [10, 11, 12, 13],
            "depth": [0.1, 0.9, 0.5, 0.7],
            "final": [0.3, 0.2, -0.4, 0.1],
            "intent": [True, True, True, False],
            "refused": [True, False, True, False],
        }
    )


def test_each_selector_ranks_by_its_own_quantity() -> None:
    assert select(table(), "cliff", 1.0) == [11, 13, 12, 10]
    assert select(table(), "final", 0.5) == [12, 13]
    assert select(table(), "rule", 0.25) == [11]
    assert sorted(select(table(), "random", 1.0)) == [10, 11, 12, 13]
    orders = {tuple(select(table(), "random", 1.0, seed)) for seed in range(20)}
    assert len(orders) > 5


def test_a_fraction_gives_at_least_one_row() -> None:
    assert select(table(), "cliff", 0.01) == [11]
    for fraction in (0.0, 1.5):
        with pytest.raises(InputError, match="fraction"):
            select(table(), "cliff", fraction)
    with pytest.raises(InputError, match="no selector"):
        select(table(), "loss", 0.5)
    with pytest.raises(InputError, match="no closed thought"):
        select(table().head(0), "cliff", 0.5)


@pytest.mark.parametrize(
    ("thinking", "found"),
    [
        ("hmm this looks bad must refuse", True),
        ("I can't help; it is illegal", True),
        ("They want bread. I should not overdo it", True),
        ("However, flour is a safe start", False),
        (None, False),
        ("", False),
    ],
)
def test_words_of_refusal(thinking: str | None, found: bool) -> None:
    assert intends_refusal(thinking) is found


def rollout(index: int, thinking: str) -> Rollout:
    prompt = Prompt(({"role": "user", "content": f"request {index}"},), "harmful", "test")
    answer = Answer(prompt.text, "sure", thinking)
    return Rollout(prompt, Row(index, (1, 2), ""), (), (3,), (4,), answer)


def test_judged_joins_by_row_and_export_keeps_the_order(tmp_path: Path) -> None:
    thoughts = [rollout(0, "must refuse"), rollout(1, "fine")]
    scores = pd.DataFrame({"row": [1, 0], "plateau": [1.0, 0.5], "final": [0.0, 0.5],
                           "depth": [1.0, 0.0]})  # fmt: skip
    found = judged(thoughts, [False, True], scores)
    by_row = found.set_index("row")
    assert by_row.loc[0, "intent"] and not by_row.loc[1, "intent"]
    assert by_row.loc[1, "refused"] and by_row.loc[1, "prompt"] == "request 1"
    path = export_selected(tmp_path / "deep" / "a.jsonl", thoughts, [1, 0], "No — sorry.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["messages"][0]["content"] for line in lines] == ["request 1", "request 0"]
    assert lines[1]["messages"][1] == {
        "role": "assistant",
        "reasoning_content": "must refuse",
        "content": "No — sorry.",
    }
