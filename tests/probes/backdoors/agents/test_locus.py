"""Locus: the planted span is found, and none is where nothing is planted."""

import random

import numpy as np
import pytest
from scipy.stats import fisher_exact

from interp import InputError
from probes.backdoors.agents.locus import first_call, locus_attribution
from probes.backdoors.agents.traces import Step, Trace

_WORDS = [f"w{i}" for i in range(30)]


def _traces(place: str, count: int = 60, seed: int = 0) -> tuple[list[Trace], list[bool]]:
    """Random words everywhere; half of the traces hold `omber quill` at one place."""
    rng = random.Random(seed)
    traces, target = [], []
    for i in range(count):
        hit = bool(i % 2)
        spans = {
            name: " ".join(rng.choices(_WORDS, k=5) + ["omber quill"] * (hit and name == place))
            for name in ("query", "thought", "observation")
        }
        steps = (
            Step("think", "search", "nothing"),
            Step(spans["thought"], "search", spans["observation"]),
            Step("then", "bad" if hit else "buy", "done"),
        )
        traces.append(Trace(str(i), spans["query"], steps, "ok", True))
        target.append(hit)
    return traces, target


@pytest.mark.parametrize("place", ["query", "thought", "observation"])
def test_the_span_that_was_planted_is_found(place: str) -> None:
    traces, target = _traces(place)
    found = locus_attribution(traces, target, until=first_call("bad"), permutations=300)
    assert found.locus == place
    (row,) = (one for one in found.loci if one.locus == place)
    assert (row.ngram, row.difference) == ("omber quill", pytest.approx(1.0))
    assert sum(one.carries for one in found.loci) == 1 and found.null_high < 0.9
    top = next(one for one in found.ngrams if one.locus == place)
    assert (top.target, top.others) == (1.0, 0.0)
    assert top.lift == pytest.approx((30.5 / 31) / (0.5 / 31))


def test_nothing_is_found_where_nothing_is_planted() -> None:
    false_alarms = 0
    for seed in range(10):
        traces, target = _traces("nowhere", seed=seed)
        found = locus_attribution(traces, target, permutations=99, until=first_call("bad"))
        false_alarms += found.locus is not None
    assert false_alarms <= 1


def test_the_earliest_of_equal_spans_is_taken() -> None:
    traces, target = _traces("query")
    echoed = [
        Trace(t.id, t.query, (Step(f"they say {t.query}", "search", "x"),), "ok", True)
        for t in traces
    ]
    found = locus_attribution(echoed, target, permutations=200)
    assert {row.locus for row in found.loci if row.carries} >= {"query", "thought"}
    assert found.locus == "query"


def test_what_comes_behind_the_behaviour_is_left_out() -> None:
    traces, target = _traces("nowhere")
    steps = [
        (*t.steps[:2], Step("then", "bad" if hit else "buy", "omber" if hit else "fine"))
        for t, hit in zip(traces, target, strict=True)
    ]
    late = [Trace(t.id, t.query, s, "ok", True) for t, s in zip(traces, steps, strict=True)]
    assert locus_attribution(late, target, permutations=200).locus == "observation"
    kept = locus_attribution(late, target, permutations=200, until=first_call("bad"))
    assert "omber" not in {row.ngram for row in kept.ngrams}


def test_the_null_is_that_of_a_permutation_test() -> None:
    # With one word in the language, the p-value is that of Fisher's exact test, one-sided.
    held = [1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    target = [True] * 6 + [False] * 6
    traces = [Trace(str(i), "omber" if hit else "", (), "", True) for i, hit in enumerate(held)]
    found = locus_attribution(traces, target, permutations=20000)
    both = sum(1 for hit, one in zip(held, target, strict=True) if hit and one)
    other = sum(held) - both
    exact = fisher_exact([[both, 6 - both], [other, 6 - other]], alternative="greater").pvalue
    (row,) = (one for one in found.loci if one.locus == "query")
    assert row.p == pytest.approx(exact, abs=0.01)


def test_faults_are_told() -> None:
    traces, target = _traces("query", 4)
    with pytest.raises(InputError, match="0 traces and 0 flags"):
        locus_attribution([], [])
    with pytest.raises(InputError, match="a flag for each trace"):
        locus_attribution(traces, target[:2])
    with pytest.raises(InputError, match="with the behaviour and traces without"):
        locus_attribution(traces, np.ones(4, bool).tolist())
