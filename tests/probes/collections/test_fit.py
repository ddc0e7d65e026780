"""`fit_probe`: the layer that knows, chosen on one side; no leak to the other; chance at chance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from collected import planted

from interp.errors import InputError
from probes.collections.fit import fit_probe
from probes.collections.fitted_probe import FittedProbe
from probes.estimators.aggregation import Ema
from probes.estimators.linear import ESTIMATORS


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_best_layer_is_found_and_tested_on_held_out_prompts(
    tmp_path: Path, estimator: str
) -> None:
    found = planted(tmp_path / "c", n=160)
    probe = fit_probe(found, "label", estimator=estimator, permutations=50)
    assert probe.layers == (1,)
    assert [one["layer"] for one in probe.meta["candidates"]] == [0, 1, 2, 3]
    tested = probe.meta["metrics"]
    assert tested["positives"] + tested["negatives"] == 40
    assert tested["auroc"] > 0.9 and tested["interval"][0] > tested["null"]["q95"]
    assert tested["tpr"] > 0.7 and tested["fpr"] < 0.3
    assert "at least 300 negatives" in tested["tpr_at_fpr"]["reason"]
    direction = np.random.default_rng(101).normal(size=8)
    cosine = torch.nn.functional.cosine_similarity(
        probe.coef[0, :, 0], torch.tensor(direction), dim=0
    )
    assert cosine > 0.8


def test_the_surface_of_the_prompts_stands_beside_the_probe(tmp_path: Path) -> None:
    told = fit_probe(planted(tmp_path / "a", n=160), "label", permutations=0).meta["metrics"]
    assert list(told["floors"]) == ["words", "length", "last token"]
    assert all(0.25 < floor["auroc"] < 0.75 for floor in told["floors"].values())
    yes = np.arange(160) % 2
    texts = [f"w{i} w{i + 1}" + " please" * int(i % 2) for i in range(160)]
    found = planted(tmp_path / "b", n=160, signal=(0.0,), text=texts, last_token=yes)
    told = fit_probe(found, "label", permutations=0).meta["metrics"]
    assert all(floor["auroc"] == 1.0 for floor in told["floors"].values())
    assert told["auroc"] < 0.8
    found = planted(tmp_path / "c", n=160, text=["?!"] * 160)
    told = fit_probe(found, "label", permutations=0).meta["metrics"]["floors"]
    assert "hold no words" in told["words"]["reason"]


def test_stacks_use_what_layers_know_apart(tmp_path: Path) -> None:
    signal = (1.2, 1.2, 1.2, 1.2)
    found = planted(tmp_path / "c", n=800, signal=signal)
    by_stack = {
        stack: fit_probe(found, "label", stack=stack, k=3, permutations=0)
        for stack in ("best", "concat", "stacked")
    }
    auroc = {stack: probe.meta["metrics"]["auroc"] for stack, probe in by_stack.items()}
    assert auroc["concat"] > auroc["best"] + 0.05 and auroc["stacked"] > auroc["best"] + 0.05
    assert {s: len(p.layers) for s, p in by_stack.items()} == {"best": 1, "concat": 4, "stacked": 3}


@pytest.mark.parametrize("stack", ["best", "concat", "stacked"])
def test_random_labels_stay_inside_the_null(tmp_path: Path, stack: Any) -> None:
    inside, found_by_chance = [], []
    for seed in range(6):
        shuffled = np.random.default_rng(1000 + seed).permutation(np.arange(80) % 2)
        signal = (0.0, 0.0, 0.0)
        found = planted(tmp_path / str(seed), n=80, signal=signal, label=shuffled, seed=seed)
        tested = fit_probe(found, "label", stack=stack, permutations=60, seed=seed).meta["metrics"]
        found_by_chance.append(tested["auroc"])
        inside.append(tested["auroc"] <= tested["null"]["q95"])
    assert sum(inside) >= 5 and 0.35 < np.mean(found_by_chance) < 0.65


def test_the_null_of_all_layers_is_higher_than_that_of_one(tmp_path: Path) -> None:
    found = planted(tmp_path / "c")
    grid = fit_probe(found, "label", permutations=200).meta["metrics"]["null"]
    alone = fit_probe(found, "label", layers=[1], permutations=200).meta["metrics"]["null"]
    assert grid["q95"] > alone["q95"] and grid["permutations"] == 200
    assert grid["quantile"] > 0.99


@pytest.mark.parametrize("aggregate", ["max", "softmax", "attention", "multimax", "rolling-mean"])
def test_tokens_are_scored_where_one_of_many_knows(tmp_path: Path, aggregate: str) -> None:
    found = planted(tmp_path / "c", n=200, lengths=(8, 16), signal=(0.0, 6.0), spread=False)
    probe = fit_probe(found, "label", aggregate=aggregate)
    assert probe.layers == (1,) and probe.meta["metrics"]["auroc"] > 0.9
    assert "one state a prompt" in probe.meta["metrics"]["null"]["reason"]


@pytest.mark.parametrize("aggregate", ["mean", "last"])
def test_pooled_tokens_take_any_estimator(tmp_path: Path, aggregate: str) -> None:
    found = planted(tmp_path / "c", n=120, lengths=(2, 6))
    probe = fit_probe(found, "label", aggregate=aggregate, estimator="mass-mean", permutations=30)
    states = found.states([1], aggregate)[:, 0]
    wanted = states @ probe.coef[0, :, 0].numpy() + probe.intercept.item()
    np.testing.assert_allclose(probe.scores(found), wanted, atol=1e-5)


@pytest.mark.parametrize("aggregate", ["max", Ema(0.3), "attention", "mean"])
def test_a_stream_gives_the_score_of_the_prompt(tmp_path: Path, aggregate: Any) -> None:
    found = planted(tmp_path / "c", n=60, lengths=(2, 6))
    probe = fit_probe(found, "label", aggregate=aggregate, permutations=0)
    scores = probe.scores(found)
    rows = found.sequences(probe.layers[0])
    for number in (0, 7, 31):
        monitor = probe.stream()
        for token in rows[number]:
            monitor.update(token[None])
        assert monitor.value.item() == pytest.approx(scores[number], abs=1e-5)


def test_sources_are_held_out_and_prompts_on_one_side(tmp_path: Path) -> None:
    # Prompts of c that stand in the other sources too are not trained on.
    keys = [f"{i % 100:015x}" for i in range(120)]
    sources = ["a"] * 60 + ["b"] * 40 + ["c"] * 20
    found = planted(tmp_path / "c", prompt_sha256=keys, source=sources)
    probe = fit_probe(found, "label", test_sources=["c"], permutations=0)
    assert probe.meta["test"] == {"sources": ["c"], "positives": 10, "negatives": 10}
    assert len(probe.trained) == 80
    assert not set(probe.trained) & set(found.prompt_keys()[100:])


def test_groups_and_equal_prompts_are_not_parted_by_share(tmp_path: Path) -> None:
    keys = [f"{i // 2:015x}" for i in range(120)]  # pairs of equal prompts
    template = [str((i + (i < 24)) // 6) for i in range(120)]  # the first ones part some pairs
    found = planted(tmp_path / "c", prompt_sha256=keys, template=template)
    probe = fit_probe(found, "label", groups="template", permutations=0)
    trained = np.isin(found.prompt_keys(), probe.trained)
    assert 60 < trained.sum() < 110
    for names in (keys, template):
        for name in set(names):
            assert len(set(trained[[other == name for other in names]])) == 1
    few = planted(tmp_path / "few", template=[str(i // 60) for i in range(120)])
    with pytest.raises(InputError, match="fall into 2 groups that may not be parted"):
        fit_probe(few, "label", groups="template")


def test_a_null_that_clusters_rule_out_says_why(tmp_path: Path) -> None:
    mixed = [str(i // 3) if i < 60 else f"{i // 6}x{i % 2}" for i in range(120)]
    found = planted(tmp_path / "c", template=mixed)
    tested = fit_probe(found, "label", groups="template", permutations=50).meta["metrics"]
    assert "clusters" in tested["null"]["reason"] and tested["method"] == "clusters"


def test_the_seed_settles_everything(tmp_path: Path) -> None:
    found = planted(tmp_path / "c")
    first, again = (fit_probe(found, "label", seed=3, permutations=30) for _ in range(2))
    assert torch.equal(first.coef, again.coef) and first.meta == again.meta
    other = fit_probe(found, "label", seed=4, permutations=30)
    assert set(other.trained) != set(first.trained)


@pytest.mark.parametrize(
    ("columns", "call", "words"),
    [
        ({}, {"label": "verdict"}, "no column 'verdict'; it has index, label, source"),
        ({"label": ["x", "y"] * 60}, {}, "labels are x, y; say which one counts as positive"),
        ({}, {"positive": "x"}, "no row has the label 'x'; there are 0, 1"),
        ({"label": ["1"] * 120}, {}, "holds 120 positive and 0 negative prompts"),
        ({}, {"test_sources": ["z"]}, "no source z; there are a, b, c"),
        ({}, {"test_sources": ["a", "b", "c"]}, "the training side holds 0 positive"),
        ({"source": ["a", "b"] * 60}, {"test_sources": ["a"]}, "the training side holds 60 pos"),
        ({}, {"test_share": 0.9}, "a test share of 0.9 is not above 0 and at most 0.5"),
        ({"label": [1, *[0] * 119]}, {}, "the smaller class has 1 prompts, too few to hold out"),
        ({"label": [1, 1, 1, 1, *[0] * 116]}, {}, "the smaller class has 3 rows, too few for 5"),
        ({}, {"estimator": "svm"}, "no estimator 'svm'"),
        ({}, {"aggregate": "median"}, "no aggregation 'median'"),
        ({}, {"aggregate": "max", "stack": "concat"}, "max goes with the logistic estimator"),
        ({}, {"stack": "stacked", "estimator": "lda"}, "a stacked probe is logistic"),
        ({}, {"stack": "tower"}, "no stack 'tower'; there are best, concat, stacked"),
        ({}, {"cv": 1}, "1 folds do not cross-validate"),
        ({}, {"layers": [7]}, "has no layer 7; it has 0, 1, 2, 3"),
        ({}, {"groups": "template"}, "no column 'template'"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, columns: dict[str, Any], call: dict[str, Any], words: str
) -> None:
    found = planted(tmp_path / "c", **columns)
    with pytest.raises(InputError, match=words):
        fit_probe(found, **{"label": "label", "permutations": 0, **call})


def test_several_tokens_need_an_aggregation(tmp_path: Path) -> None:
    found = planted(tmp_path / "c", lengths=(2, 3))
    with pytest.raises(InputError, match=r"several tokens in a prompt; say with --aggregate"):
        fit_probe(found, "label")
    assert isinstance(fit_probe(found, "label", aggregate="last", permutations=0), FittedProbe)
