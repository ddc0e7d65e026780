"""The published sink measurements of stories260K, and how a report is held against them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Their lists are transformers' hidden states: the embedding, then each block, the last one normed.
RESIDUAL = {
    "residual_norm_first": "norm_tok0",
    "residual_norm_rest": "norm_rest",
    "max_abs": "max_abs_by_layer",
    "median_abs": "median_abs_by_layer",
}


def stories(reference: Callable[[str], Path]) -> list[str]:
    """The documents that were measured."""
    documents: list[str] = json.loads(reference("text/tinystories_1000.json").read_text())[:32]
    return documents


def assert_as_published(
    report: dict[str, Any], bos: bool, reference: Callable[[str], Path]
) -> None:
    """Every published number that a sink report has, within 1e-5 relative."""
    path = reference("measurements/stories260K/sink_metrics.json")
    golden = json.loads(path.read_text())[f"tinystories|bos={bos}"]
    assert report["provenance"]["bos"] is bos
    assert report["sink_rate"]["sequences"] == golden["n"]
    assert report["sink_rate"]["length"] == golden["T"]
    heads = sorted(report["heads"], key=lambda head: (head["layer"], head["head"]))
    alpha = np.array(golden["alpha1_layer_head"])
    found = np.array([head["alpha_first"] for head in heads]).reshape(alpha.shape)
    assert found == pytest.approx(alpha, rel=1e-5)
    mass = np.mean([head["sink_mass"] for head in heads])
    assert mass == pytest.approx(golden["first_tok_attn_mean_excl_self"], rel=1e-5)
    rates = {str(at["epsilon"]): at["percent"] for at in report["sink_rate"]["by_epsilon"]}
    for epsilon, percent in golden["sink1_pct"].items():
        assert rates[epsilon] == pytest.approx(percent, rel=1e-5, abs=1e-9)
    states = [report["embedding"], *report["layers"][:-1], report["final_norm"]]
    for ours, theirs in RESIDUAL.items():
        assert [state[ours] for state in states] == pytest.approx(golden[theirs], rel=1e-5)
