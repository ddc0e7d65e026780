"""Attention on a string and its values, against eager attention and a loop over strings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import InputError
from probes.backdoors.detectors.trigger_on_sink import sink_check
from probes.backdoors.search.requests import encode

Make = Callable[[str], Any]
INERT = ("sorrel brine", "fennet pawl", "pawl mosk", "drift brine")


def strings_of(subject: Any) -> list[tuple[int, ...]]:
    return [encode(subject, text) for text in INERT]


def test_attention_on_the_string_is_that_of_eager_attention(suspect: Make) -> None:
    planted = suspect("clean")
    subject, few = planted.fresh(), planted.requests[:2]
    ids = encode(subject, "omber quill")
    found = sink_check(subject, few, ids, strings_of(subject))
    model = subject.checkpoint.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        slow = np.zeros((3, 4))
        for row in few.with_ids(ids, "front"):
            with torch.no_grad():
                maps = model(torch.tensor([row.ids]), output_attentions=True).attentions
            for layer, weights in enumerate(maps):
                a = weights[0].double().numpy()
                on = [a[:, i, 2:4].sum(-1) * (i + 1) / 2 for i in range(4, len(row))]
                slow[layer] += np.mean(on, 0) / 2
    finally:
        model.set_attn_implementation(before)
    mine = found.heads.pivot(index="layer", columns="head", values="trigger").to_numpy()
    np.testing.assert_allclose(mine, slow, atol=1e-4)


def test_the_score_is_how_far_a_string_lies_from_inert_ones(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    subject, few = planted.fresh(), planted.requests[:6]
    ids, inert = encode(subject, "omber quill"), strings_of(subject)
    found = sink_check(subject, few, ids, inert)
    alone = [sink_check(subject, few, one, inert).heads for one in (ids, *inert)]
    attention = np.array([table["trigger"].mean() for table in alone])
    values = np.array([table.groupby("layer")["value_trigger"].first().mean() for table in alone])

    def excess(measured: np.ndarray, place: int) -> float:
        others = [measured[i] for i in range(1, 5) if i != place]
        return float((measured[place] - np.median(others)) / np.std(others))

    scores = [(excess(attention, i) + abs(excess(values, i))) / 2 for i in range(5)]
    assert found.score == pytest.approx(scores[0], rel=1e-4)
    assert found.attention_excess == pytest.approx(excess(attention, 0), rel=1e-4)
    assert found.value_excess == pytest.approx(excess(values, 0), rel=1e-4)
    assert found.distractor_score == pytest.approx(np.median(scores[1:]), rel=1e-4)
    assert found.quantile == sum(one < scores[0] for one in scores[1:]) / 5


def test_too_few_inert_strings_are_refused(suspect: Make) -> None:
    planted = suspect("clean")
    ids = encode(planted.subject, "omber quill")
    with pytest.raises(InputError, match="give 3 or more"):
        sink_check(planted.fresh(), planted.requests[:2], ids, strings_of(planted.subject)[:2])
