"""Ablation beside its null, on organisms whose suppression head is known, and not there."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from thinking import organism, respondent, thoughts

from interp import organisms
from probes.cliff.head_study import Ablations, HeadStudy, pair_interactions, study_heads
from probes.cliff.refusal_probe import RefusalProbe, logits_under
from probes.heads.head_ablation import Head, all_heads, silenced_heads

COUNT = 16


def ablations(name: str) -> Ablations:
    return Ablations(
        respondent(name), thoughts(name, "harmful", COUNT), thoughts(name, "harmless", COUNT)
    )


def probe(name: str) -> RefusalProbe:
    width = organism(name).anatomy.width
    return RefusalProbe(np.random.default_rng(0).normal(size=width), 0.0, {})


def order(name: str, first: Head) -> pd.DataFrame:
    """A ranking with one head in front."""
    heads = [first, *(head for head in all_heads(organism(name)) if head != first)]
    return pd.DataFrame(
        {
            "layer": [layer for layer, _ in heads],
            "head": [head for _, head in heads],
            "contribution": np.linspace(-3, 3, len(heads)),
            "rank": np.arange(1, len(heads) + 1),
        }
    )


def study(name: str, first: Head, **how: Any) -> HeadStudy:
    return study_heads(ablations(name), order(name, first), probe(name), **how)


def test_the_designated_head_is_found_and_no_other() -> None:
    designated = tuple(organisms.truth("cliff")["designated_head"])
    found = study("cliff", designated, exhaustive=True)
    assert found.suppression == (designated,) and found.top == (designated,)
    table = pd.DataFrame(found.heads).set_index(["layer", "head"])
    assert len(table) == 12
    assert table.loc[designated, "ablated_refusal"] >= 0.95
    truth = organisms.truth("cliff")["measured"]
    for (layer, head), row in table.iterrows():
        expected = truth[f"silenced_{layer}_{head}_refused"]
        assert row["ablated_refusal"] == pytest.approx(expected, abs=0.07)
        assert row["null_high"] < 0.2


def test_it_is_found_although_it_was_not_named_in_advance() -> None:
    designated = tuple(organisms.truth("cliff")["designated_head"])
    found = study("cliff", (0, 0), exhaustive=True)
    assert found.suppression == (designated,)
    table = pd.DataFrame(found.heads).set_index(["layer", "head"])
    # The others of its layer have it in their null.
    other = next(h for h in range(4) if h != designated[1])
    assert table.loc[(designated[0], other), "null_high"] == 1.0


def test_without_exhaustion_only_named_heads_are_judged() -> None:
    found = study("cliff", (0, 0))
    assert found.suppression == () and found.top == ((0, 0),)
    table = pd.DataFrame(found.heads)
    judged = table[table["ablated_refusal"].notna()]
    assert judged[["layer", "head"]].to_numpy().tolist() == [[0, 0]]
    assert table["null_high"].notna().sum() == 1


def test_no_cliff_gives_no_head() -> None:
    found = study("no-cliff", (2, 0), exhaustive=True)
    assert found.suppression == ()
    table = pd.DataFrame(found.heads)
    assert (table["ablated_refusal"] >= 0.9).all()
    assert (table["null_high"] >= 0.9).all()


def test_the_conditions_stand_beside_random_heads() -> None:
    designated = tuple(organisms.truth("cliff")["designated_head"])
    table = pd.DataFrame(study("cliff", designated).conditions)
    by = table.groupby("condition")
    assert by.get_group("nothing silenced")["refusal"].item() == 0.0
    named = by.get_group("named heads")
    assert sorted(named["norm_restored"]) == [False, True] and (named["refusal"] >= 0.95).all()
    assert (named["over_refusal"] <= 0.05).all() and (named["compliant"] >= 0.95).all()
    assert (named["kl"] < 0.01).all()
    for name, size in (
        ("random heads, same layers", 1),
        ("random heads, other layers", 1),
        ("random pair", 2),
    ):
        group = by.get_group(name)
        assert len(group) >= 2 and (group["refusal"] == 0).all()
        for spoken in group["heads"]:
            heads = [tuple(map(int, head.split("."))) for head in spoken.split()]
            assert len(heads) == size and designated not in heads
            same = all(layer == designated[0] for layer, _ in heads)
            assert same == (name == "random heads, same layers") or size == 2


def test_pairs_are_the_difference_of_four_runs() -> None:
    study_of, reader = ablations("cliff"), probe("cliff")
    heads = [(2, 0), (1, 1), (0, 3)]
    table = pd.DataFrame(pair_interactions(study_of, heads, reader, seed=0))
    assert len(table) == 3
    assert table["interaction"].abs().is_monotonic_decreasing
    rows = [one.whole for one in study_of.harmful]
    for row in table.to_dict("records"):
        a, b = (tuple(map(int, str(row[name]).split("."))) for name in ("a", "b"))

        def read(*chosen: Head) -> float:
            edit = silenced_heads(organism("cliff"), chosen) if chosen else None
            return float(logits_under(organism("cliff"), rows, reader, edit).mean())

        slow = read(a, b) - read(a) - read(b) + read()
        assert row["interaction"] == pytest.approx(slow, abs=1e-4)
        assert row["interaction_low"] <= row["interaction"] <= row["interaction_high"]
