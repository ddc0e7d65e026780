"""First-token log-odds and prefix probabilities, against the definitions and on an organism."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.data.segments import chat_row
from interp.errors import InputError
from interp.generation import next_logits
from interp.organisms.chat.behaviour import requests
from interp.organisms.chat.grammar import OPENERS, REFUSALS
from probes.scorers import (
    Answer,
    Likelihood,
    find_refusal_tokens,
    prefix_contrast,
    prefix_log_probability,
    refusal_log_odds,
)

PREFIXES = [" ".join(REFUSALS[0]), "sorry", " ".join(OPENERS[0])]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return interp.load("organism:chat")


def prompts(checkpoint: Checkpoint, harmful: bool) -> list[Row]:
    some = requests(harmful)[::8]
    return [
        chat_row(checkpoint, [{"role": "user", "content": " ".join(one.words)}], index=7 + 3 * i)
        for i, one in enumerate(some)
    ]


def slow_prefix(checkpoint: Checkpoint, row: Row, prefix: str) -> float:
    """One row, one token at a time, float64."""
    ids, total = list(row.ids), 0.0
    for token in checkpoint.tokenizer(prefix, add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([ids])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    return total


def test_log_odds_are_the_definition() -> None:
    logits = torch.randn(5, 9)
    p = torch.softmax(logits.double(), -1)[:, [2, 4]].sum(-1)
    odds = refusal_log_odds(logits, [2, 4])
    assert odds.dtype == np.float64
    assert odds == pytest.approx((torch.log(p + 1e-8) - torch.log(1 - p + 1e-8)).numpy())
    sure = torch.full((1, 3), -1e4)
    sure[0, 1] = 0
    assert refusal_log_odds(sure, [1])[0] == pytest.approx(-np.log(1e-8))
    for bad in ([], [1, 1], [3], [-1]):
        with pytest.raises(InputError, match="different ids from 0 to 2"):
            refusal_log_odds(sure, bad)


def test_the_organisms_refusal_token_is_found(checkpoint: Checkpoint) -> None:
    refused, complied = (next_logits(checkpoint, prompts(checkpoint, h)) for h in (True, False))
    tokens = find_refusal_tokens(refused, complied, checkpoint.tokenizer)
    assert tokens.texts == ("sorry",)
    assert tokens.hits >= 0.95 and tokens.false_alarms <= 0.05
    assert tokens.refused[0] > 0.9 > 0.1 > tokens.complied[0]
    assert json.loads(json.dumps(tokens.to_dict()))["ids"] == list(tokens.ids)
    with pytest.raises(InputError, match="no first token tells refused"):
        find_refusal_tokens(complied, complied, checkpoint.tokenizer)
    with pytest.raises(InputError, match="prompts that are refused and"):
        find_refusal_tokens(refused[:0], complied, checkpoint.tokenizer)


def test_tokens_that_both_sides_use_are_left_out() -> None:
    """Token 0 is likelier after refused prompts, but not `ratio` times; 2 is below `least`."""
    refused = torch.log(torch.tensor([[0.50, 0.43, 0.04, 0.03]]))
    complied = torch.log(torch.tensor([[0.30, 0.02, 0.001, 0.679]]))

    class Names:
        def decode(self, ids: Sequence[int]) -> str:
            return str(ids[0])

    assert find_refusal_tokens(refused, complied, Names()).ids == (1,)
    assert find_refusal_tokens(refused, complied, Names(), ratio=1.0).ids == (1, 0)
    assert find_refusal_tokens(refused, complied, Names(), least=0.03).ids == (1, 2)


def test_prefixes_equal_the_slow_way_in_any_batch(checkpoint: Checkpoint) -> None:
    rows = prompts(checkpoint, True)[:3] + [
        replace(row, index=row.index + 1) for row in prompts(checkpoint, False)[:3]
    ]
    slow = np.array([[slow_prefix(checkpoint, row, p) for p in PREFIXES] for row in rows])
    for batch_tokens in (1, 40, 8192):
        fast = prefix_log_probability(checkpoint, rows, PREFIXES, batch_tokens=batch_tokens)
        np.testing.assert_allclose(fast, slow, atol=1e-4)
    # Order of rows makes no difference.
    turned = prefix_log_probability(checkpoint, rows[::-1], PREFIXES)
    np.testing.assert_allclose(turned[::-1], slow, atol=1e-4)


def test_the_contrast_tells_refused_prompts(checkpoint: Checkpoint) -> None:
    rows = [*prompts(checkpoint, True), *prompts(checkpoint, False)]
    rows = [replace(row, index=i) for i, row in enumerate(rows)]
    said = prefix_log_probability(checkpoint, rows, PREFIXES[:1] + [" ".join(o) for o in OPENERS])
    contrast = prefix_contrast(said[:, :1], said[:, 1:])
    p = np.exp(said)
    np.testing.assert_allclose(contrast, np.log(p[:, 0] / p[:, 1:].sum(1)), atol=1e-6)
    scorer = Likelihood(contrast, "prefixes")
    found = scorer.verdicts([Answer("", "sure")] * len(rows))
    half = len(prompts(checkpoint, True))
    truth = ["refusal"] * half + ["compliance"] * (len(rows) - half)
    assert np.mean([a == b for a, b in zip(found, truth, strict=True)]) >= 0.97


def test_an_edit_is_in_force_and_sees_the_rows(checkpoint: Checkpoint) -> None:
    rows = prompts(checkpoint, True)[:3]
    seen: list[int] = []

    @contextmanager
    def louder(batch: Sequence[Row]) -> Iterator[None]:
        seen.extend(row.index for row in batch)
        assert all(row.segments == {r.index: r for r in rows}[row.index].segments for row in batch)
        weight = checkpoint.final_norm.get_parameter("weight")
        with torch.no_grad():
            weight.mul_(0)
        yield
        with torch.no_grad():
            weight.copy_(kept)

    kept = checkpoint.final_norm.get_parameter("weight").detach().clone()
    edited = prefix_log_probability(checkpoint, rows, ["sorry"], edit=louder)
    assert sorted(seen) == [row.index for row in rows]
    plain = prefix_log_probability(checkpoint, rows, ["sorry"])
    assert np.ptp(edited) < 1e-6 and (plain > edited + 1).all()


def test_likelihood_keeps_empty_and_looping_apart() -> None:
    scorer = Likelihood(np.array([1.0, 1.0, 1.0, 0.0]), "odds")
    loop = Answer("", "no " * 9, ended=False)
    cases = [Answer("", "no"), Answer("", ""), loop, Answer("", "no")]
    assert scorer.verdicts(cases) == ["refusal", "empty", "looping", "compliance"]
    with pytest.raises(InputError, match="computed for 4 prompts, and there are 1"):
        scorer.verdicts(cases[:1])


def test_faults(checkpoint: Checkpoint) -> None:
    rows = prompts(checkpoint, True)[:1]
    for some, prefixes in ((rows * 2, ["sorry"]), (rows, []), (rows, [""]), ([], ["sorry"])):
        with pytest.raises(InputError, match="prefix probabilities need"):
            prefix_log_probability(checkpoint, some, prefixes)
    with pytest.raises(InputError, match="has no tokenizer"):
        prefix_log_probability(replace(checkpoint, tokenizer=None), rows, ["sorry"])
