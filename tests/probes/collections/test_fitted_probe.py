"""`FittedProbe`: the artefact round trip, the model it belongs to, and prompts it has not seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from collected import ORIGIN, planted

from interp.errors import InputError
from interp.model.artifacts import Artifact, save
from probes.collections.fit import fit_probe
from probes.collections.fitted_probe import FittedProbe, classes, metrics
from probes.statistics.metrics import auroc


@pytest.mark.parametrize("aggregate", ["mean", "ema", "attention"])
def test_a_saved_probe_scores_as_before(tmp_path: Path, aggregate: str) -> None:
    found = planted(tmp_path / "c", n=60, lengths=(2, 5))
    probe = fit_probe(found, "label", aggregate=aggregate, permutations=30)
    again = FittedProbe.load(probe.save(tmp_path / "probe.safetensors"))
    np.testing.assert_array_equal(again.scores(found), probe.scores(found))
    assert again.aggregation == probe.aggregation and again.layers == probe.layers
    assert json.loads(json.dumps(dict(probe.meta)))["metrics"] == again.meta["metrics"]


def test_prompts_of_the_fit_are_left_out(tmp_path: Path) -> None:
    found = planted(tmp_path / "c")
    probe = fit_probe(found, "label", permutations=0)
    own = probe.evaluate(found)
    assert own["left_out"] == 90 and own["prompts"] == 30
    assert own["overall"]["auroc"] == probe.meta["metrics"]["auroc"]
    assert set(own["by_source"]) == {"a", "b", "c"}
    other = planted(tmp_path / "other", seed=1)
    fresh = probe.evaluate(other)
    assert fresh["left_out"] == 0 and fresh["overall"]["auroc"] > 0.9
    for name, one in fresh["by_source"].items():
        here = other.column("source") == name
        truth = other.column("label")[here] == "1"
        assert one["auroc"] == pytest.approx(auroc(probe.scores(other)[here], truth).value)
    with pytest.raises(InputError, match="the probe was fitted on every prompt"):
        replace(probe, trained=found.prompt_keys()).evaluate(found)


def test_another_model_site_or_layer_is_refused(tmp_path: Path) -> None:
    probe = fit_probe(planted(tmp_path / "c"), "label", permutations=0)
    other = planted(tmp_path / "other", seed=1)

    def changed(**meta: object) -> object:
        return replace(other, meta={**other.meta, **meta})

    strange = changed(origin={**ORIGIN, "model": "another", "fingerprint": "f" * 16})
    with pytest.raises(
        InputError,
        match=r"belongs to planted, and another is not the same: weights f+ here, 0+ there",
    ):
        probe.evaluate(strange)
    assert probe.evaluate(strange, allow=["fingerprint"])["prompts"] == 120
    with pytest.raises(InputError, match="another tokenizer or chat template"):
        probe.evaluate(changed(origin={**ORIGIN, "tokenizer_hash": "f" * 16}))
    with pytest.raises(InputError, match=r"fitted with site resid_pre, and .* holds mlp_out"):
        probe.evaluate(changed(site="mlp_out"))
    with pytest.raises(InputError, match="fitted with segment instruction"):
        probe.evaluate(changed(segment="last"))
    with pytest.raises(InputError, match="has no layer 1; it has 0, 2"):
        probe.evaluate(changed(layers=[0, 2]))


def test_a_stream_takes_one_layer(tmp_path: Path) -> None:
    probe = fit_probe(planted(tmp_path / "c"), "label", stack="concat", permutations=0)
    with pytest.raises(InputError, match="reads 4 layers; a stream takes the states of one"):
        probe.stream()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "d.safetensors", Artifact("direction", {"v": torch.ones(2)}, {}))
    with pytest.raises(InputError, match="holds a direction, where a probe is needed"):
        FittedProbe.load(path)


def test_which_label_is_positive() -> None:
    for yes, no in (("1", "0"), ("True", "False"), ("yes", "no")):
        truth, named = classes(np.array([yes, no, yes]), None)
        assert truth.tolist() == [True, False, True] and named == yes
    truth, _ = classes(np.array(["a", "b", "c"]), "b")
    assert truth.tolist() == [False, True, False]
    for values in (["a", "b"], ["1", "2"], ["0", "0"]):
        with pytest.raises(InputError, match="say which one counts as positive"):
            classes(np.array(values), None)


def test_metrics_say_what_they_cannot() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(700) % 2 == 0
    scores = rng.normal(size=700) + 2.0 * positive
    full = metrics(scores, positive, 1.0)
    point = full["tpr_at_fpr"]
    assert (scores[~positive] > point["threshold"]).mean() <= 0.01
    assert point["tpr"] == (scores[positive] > point["threshold"]).mean()
    assert full["tpr"] == (scores[positive] > 1.0).mean()
    few = metrics(scores[:40], positive[:40], 1.0)
    assert "needs at least 300 negatives" in few["tpr_at_fpr"]["reason"]
    one = metrics(scores[~positive], positive[~positive], 1.0)
    assert one["auroc"] is None and one["tpr"] is None
    assert one["fpr"] == full["fpr"] and one["tpr_at_fpr"]["reason"] == "a class is empty here"


def test_a_probe_is_one_line(tmp_path: Path) -> None:
    probe = fit_probe(planted(tmp_path / "c"), "label", permutations=0)
    assert repr(probe) == (
        f"FittedProbe(logistic, {probe.meta['site']} of layers {probe.layers[0]} at "
        f"{probe.meta['segment']}, aggregated by last, width {probe.coef.shape[1]}, "
        "90 training prompts)"
    )
    outside = replace(probe, layers=(None,), meta={**probe.meta, "site": "embed"})
    assert "logistic, embed at" in repr(outside)


def test_a_path_is_no_collection(tmp_path: Path, as_users_call: None) -> None:
    wrong: Any = "acts"
    with pytest.raises(InputError, match=r"^collection is the string 'acts', .*Collection\.open"):
        fit_probe(wrong, "label")
    wrong = 1
    with pytest.raises(InputError, match=r"^label is 1, and must be of type str"):
        fit_probe(planted(tmp_path / "c"), wrong)
