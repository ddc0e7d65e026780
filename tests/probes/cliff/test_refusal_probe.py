"""The refusal probe: cells that count alike, token by token, and the causality self-test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from families import VOCAB, tiny

import interp
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError
from probes.cliff.refusal_probe import (
    Example,
    RefusalProbe,
    causality_leak,
    fit_refusal_probe,
    logits_under,
    probe_examples,
    token_logits,
    token_probabilities,
)
from probes.estimators.linear import Logistic
from probes.heads.head_ablation import silenced_heads


def some_rows(count: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        Row(i, tuple(rng.integers(3, VOCAB, int(rng.integers(4, 12))).tolist()), "")
        for i in range(count)
    ]


def final_states(checkpoint: Checkpoint, rows: list[Row]) -> list[np.ndarray]:
    with torch.no_grad():
        return [
            checkpoint.decoder(torch.tensor([row.ids])).last_hidden_state[0].double().numpy()
            for row in rows
        ]


def examples(counts: dict[tuple[bool, bool], int]) -> list[Example]:
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    return [
        Example(row, harmful, refused)
        for row, (harmful, refused) in zip(some_rows(len(kinds)), kinds, strict=True)
    ]


def test_the_probe_is_the_regression_in_which_every_cell_counts_alike() -> None:
    checkpoint = interp.load(tiny("llama"))
    made = examples({(True, True): 12, (False, True): 3, (True, False): 6, (False, False): 12})
    probe = fit_refusal_probe(checkpoint, made)
    assert probe.counts == {
        "refused_harmful": 12,
        "refused_harmless": 3,
        "accepted_harmful": 6,
        "accepted_harmless": 12,
    }
    assert probe.missing == ()
    states = np.stack([s[-1] for s in final_states(checkpoint, [one.row for one in made])])
    repeats = {"refused_harmful": 1, "refused_harmless": 4, "accepted_harmful": 2}
    index = np.repeat(np.arange(len(made)), [repeats.get(one.cell, 1) for one in made])
    labels = np.array([one.refused for one in made])
    slow = Logistic(C=1.0).fit(states[index], labels[index])
    np.testing.assert_allclose(probe.coef, slow.coef_, rtol=1e-2, atol=1e-3)


def test_missing_cells_are_named_and_one_class_alone_is_refused() -> None:
    checkpoint = interp.load(tiny("llama"))
    probe = fit_refusal_probe(checkpoint, examples({(True, True): 6, (False, False): 6}))
    assert probe.missing == ("refused_harmless", "accepted_harmful")
    with pytest.raises(InputError, match="none of 9 requests was refused"):
        fit_refusal_probe(checkpoint, examples({(True, False): 4, (False, False): 5}))
    with pytest.raises(InputError, match="none of 4 requests was accepted"):
        fit_refusal_probe(checkpoint, examples({(True, True): 4}))


def some_probe(checkpoint: Checkpoint) -> RefusalProbe:
    coef = np.random.default_rng(3).normal(size=checkpoint.anatomy.width)
    return RefusalProbe(coef, -0.4, {})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_token_is_read_where_the_model_normed_it(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    rows, probe = some_rows(5)[::-1], some_probe(checkpoint)
    logits = token_logits(checkpoint, rows, probe, batch_tokens=20)
    for row, found, states in zip(rows, logits, final_states(checkpoint, rows), strict=True):
        assert len(found) == len(row)
        np.testing.assert_allclose(found, states @ probe.coef - 0.4, rtol=1e-4, atol=1e-4)
    chances = token_probabilities(checkpoint, rows, probe)
    np.testing.assert_allclose(chances[2], 1 / (1 + np.exp(-logits[2])), atol=1e-6)
    ends = probe_examples(checkpoint, probe, [Example(row, True, True) for row in rows])
    np.testing.assert_allclose(ends, [found[-1] for found in logits], atol=1e-4)
    np.testing.assert_allclose(logits_under(checkpoint, rows, probe), ends, atol=1e-3)


def test_logits_under_an_edit_are_those_of_the_edited_model() -> None:
    checkpoint = interp.load(tiny("llama"))
    rows, probe = some_rows(3), some_probe(checkpoint)
    edit = silenced_heads(checkpoint, [(1, 2)], where=None)
    found = logits_under(checkpoint, rows, probe, edit)
    for row, value in zip(rows, found, strict=True):
        with edit([row]):
            (state,) = final_states(checkpoint, [row])
        assert value == pytest.approx(float(state[-1] @ probe.coef) - 0.4, abs=1e-3)
    assert np.abs(found - logits_under(checkpoint, rows, probe)).min() > 1e-3


@contextmanager
def leaking(checkpoint: Checkpoint) -> Iterator[None]:
    """A model that adds a little of the last token to every token before it."""

    def add(module: Any, args: Any, output: Any) -> Any:
        return output + 0.1 * output[:, -1:]

    handle = checkpoint.embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_next", "gpt_oss"])
def test_causality(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    row = some_rows(1)[0]
    assert causality_leak(checkpoint, row) < 1e-4
    with leaking(checkpoint):
        assert causality_leak(checkpoint, row) > 1e-2
