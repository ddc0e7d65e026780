"""What is measured of a guard, and what is refused."""

import json

import numpy as np
import pytest

from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError
from interp.statistics.intervals import wilson
from probes.guards.evaluation import evaluate, false_positives
from probes.statistics.calibration import Platt
from probes.statistics.metrics import auroc, tpr_at_fpr


def benign(count: int) -> PromptSet:
    """Every third from the news, every second alarming."""
    return PromptSet(
        tuple(
            Prompt(
                ({"role": "user", "content": f"prompt {i}"},),
                "alarming" if i % 2 else "harmless",
                "news" if i % 3 == 0 else "chat",
            )
            for i in range(count)
        )
    )


def test_figures() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.normal(2, 1, 50), rng.normal(0, 1, 400)
    made = evaluate(high, low, benign(400), 1.5, Platt(1.0, -1.0))
    scores, positive = np.r_[high, low], np.arange(450) < 50
    assert made.auroc == auroc(scores, positive)
    assert made.at_threshold.tpr == (high > 1.5).mean()
    assert made.at_threshold.fpr == (low > 1.5).mean()
    assert made.tpr_at_fpr == {0.01: tpr_at_fpr(scores, positive, 0.01)}
    assert list(made.refused) == [0.001] and "at least 3000 negatives" in made.refused[0.001]
    assert made.reliability is not None and made.reliability["n"].sum() == 450
    assert evaluate(high, low, benign(400), 1.5).reliability is None
    again = json.loads(json.dumps(made.summary(), allow_nan=False))
    assert again["auroc"]["value"] == made.auroc.value
    assert list(again["tpr_at_fpr"]) == ["0.01"] and list(again["refused"]) == ["0.001"]


def test_false_positives_of_each_source() -> None:
    prompts = benign(12)
    scores = np.array([1.0 if p.source == "news" and p.label == "alarming" else 0 for p in prompts])
    table = false_positives(scores, prompts, 0.5).set_index(["source", "label"])
    assert table["n"].to_dict() == {
        ("news", "harmless"): 2,
        ("chat", "alarming"): 4,
        ("chat", "harmless"): 4,
        ("news", "alarming"): 2,
    }
    assert table.loc[("news", "alarming"), "fpr"] == 1
    assert table.loc[("chat", "alarming"), "fpr"] == 0
    assert table.loc[("chat", "alarming"), "high"] == wilson(0.0, 4)[1]


def test_a_class_without_prompts() -> None:
    with pytest.raises(InputError, match="one class is empty"):
        evaluate(np.zeros(0), np.zeros(3), benign(3), 0.0)
