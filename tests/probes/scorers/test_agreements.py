"""Agreement tables against scikit-learn and counts by hand."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from interp.errors import InputError
from interp.statistics.intervals import wilson
from probes.scorers import Answer, Verdict, agreement, confusion, disagreements

R, P, C, E, L = Verdict
FIRST = [R, R, P, C, C, E, C, R]
SECOND = [R, P, P, C, R, E, L, R]


def test_every_pair_on_what_both_judge() -> None:
    table = agreement({"a": FIRST, "b": SECOND, "c": FIRST})
    assert list(zip(table["first"], table["second"], strict=True)) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    row = table.iloc[0]
    assert (row["n"], row["apart"], row["equal"]) == (6, 2, 4 / 6)
    assert (row["low"], row["high"]) == wilson(4.0, 6)
    judged = [0, 1, 2, 3, 4, 7]
    expected = cohen_kappa_score([FIRST[i] for i in judged], [SECOND[i] for i in judged])
    assert row["kappa"] == pytest.approx(expected)
    assert table.iloc[1]["kappa"] == 1 and table.iloc[1]["apart"] == 1


def test_what_cannot_be_told_is_nan() -> None:
    same = agreement({"a": [R, R], "b": [R, R]}).iloc[0]
    assert same["equal"] == 1 and same["low"] < 0.5 and np.isnan(same["kappa"])
    none = agreement({"a": [E], "b": [R]}).iloc[0]
    assert none["n"] == 0 and none["apart"] == 1 and np.isnan(none["equal"])


def test_confusion_and_disagreements() -> None:
    table = confusion(FIRST, SECOND)
    assert table.shape == (5, 5) and table.to_numpy().sum() == 8
    assert table.loc["refusal", "partial"] == 1 and table.loc["compliance", "looping"] == 1
    said = [Answer("q", str(i)) for i in range(8)]
    apart = disagreements({"a": FIRST, "b": SECOND}, said)
    assert [one.index for one in apart] == [1, 4, 6]
    assert apart[0].answer is said[1] and apart[0].verdicts == {"a": R, "b": P}


def test_different_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="two scorers"):
        agreement({"a": FIRST})
    for call in (lambda: confusion(FIRST, [R]), lambda: agreement({"a": FIRST, "b": [R]})):
        with pytest.raises(InputError, match="8 verdicts and 1 others"):
            call()
