"""The sentences of a refusal finding, beside its numbers."""

from collections.abc import Callable
from typing import Any

import pytest

from analyses.refusal.finding import RefusalFinding
from analyses.refusal.verdict import verdict

Found = Callable[[str], RefusalFinding]


@pytest.fixture
def report(found: Found) -> dict[str, Any]:
    return found("chat").to_dict()


def test_numbers_of_the_sentences_are_those_of_the_report(report: dict[str, Any]) -> None:
    text = verdict(report)
    assert text == report["verdict"]
    assert "refuses 1.00 [0.938–1.00] (n = 58) of harmful prompts" in text
    assert "layer 1, position −1" in text
    assert "with it ablated 0 [0–0.0621] (n = 58)" in text
    assert (
        "5 random directions of its length leave at least 1 refused and bring about at most 0"
        in text
    )
    assert "at layer 1, the best of 3" in text
    assert "(n = 58 and 359) on jailbroken prompts" in text
    assert "does not show that the checkpoint is safe" in text


def test_a_direction_whose_ablation_leaves_refusal_does_not_carry_it(
    report: dict[str, Any],
) -> None:
    report["rates"]["harmful"]["ablated"] |= {"rate": 0.6, "interval": [0.47, 0.72]}
    assert "No single direction carries refusal: of the one selected" in verdict(report)
    report["rates"]["harmful"]["ablated"] |= {"rate": 0.4, "interval": [0.28, 0.53]}
    assert "No single direction" not in verdict(report)


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (["kl", "induce", "layer"], "No single direction carries refusal: none of the 9"),
        (["layer", "no number"], "No refusal direction is selected: all 9 candidates"),
    ],
)
def test_without_a_survivor_it_says_why(
    report: dict[str, Any], reasons: list[str], words: str
) -> None:
    report["direction"]["layer"] = None
    report["selection"] = [{"discarded": reason} for reason in reasons]
    assert words in verdict(report)


def test_without_alarming_prompts_it_names_two_kinds(report: dict[str, Any]) -> None:
    report["rates"]["over_refusal"] = None
    assert "of harmful prompts and 0 [" in verdict(report)
    assert "alarming" not in verdict(report)
