"""What a policy costs: exactly 0 where it is closed, and the sum by hand where it is not."""

import dataclasses

import numpy as np
import pytest
import torch

from interp import organisms
from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Reply, replies
from interp.model.sites import Site
from interp.resolve import load
from steering import act_add
from steering.policy.policy import Policy
from steering.runtime.decisions import Decision
from steering.runtime.gates import LogisticGate
from steering.runtime.runtime import apply, as_edit
from steering.training.evaluation import (
    GateQuality,
    forced_on_replies,
    gate_quality,
    threshold_of,
    throughput_ratio,
)

LAYER = Site("resid_post", 1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("organism:chat")


@pytest.fixture(scope="module")
def rows(checkpoint: Checkpoint) -> list[Row]:
    return prompt_rows(checkpoint, organisms.prompts("chat", "test")["harmless"][:6])


@pytest.fixture(scope="module")
def said(checkpoint: Checkpoint, rows: list[Row]) -> list[Reply]:
    return replies(checkpoint, rows, max_new_tokens=8)


def _policy(width: int) -> Policy:
    generator = torch.Generator().manual_seed(0)
    return act_add([LAYER], torch.randn(1, width, generator=generator), 1.0)


def _gated(policy: Policy, bias: float) -> Policy:
    gate = LogisticGate([LAYER], torch.zeros(1, policy.width), bias)
    return dataclasses.replace(policy, gate=gate)


def test_kl_and_loss_equal_those_of_one_row_at_a_time(
    checkpoint: Checkpoint, rows: list[Row], said: list[Reply]
) -> None:
    policy = _policy(checkpoint.anatomy.width)
    forced = forced_on_replies(checkpoint, rows, said, as_edit(checkpoint, policy))
    kls, deltas = [], []
    for row, reply in zip(rows, said, strict=True):
        ids = torch.tensor([[*row.ids, *reply.ids]])
        where = slice(len(row) - 1, ids.shape[1] - 1)
        with torch.no_grad():
            p = checkpoint.model(ids).logits[0, where].double().log_softmax(-1)
            with apply(checkpoint, policy) as attachment, attachment.prompts([len(row)]):
                q = checkpoint.model(ids).logits[0, where].double().log_softmax(-1)
        kls.append((p.exp() * (p - q)).sum(-1).numpy())
        wanted = torch.tensor(reply.ids)[:, None]
        deltas.append((p.gather(1, wanted) - q.gather(1, wanted))[:, 0].numpy())
    kl, delta = forced.means()
    assert kl == pytest.approx(np.concatenate(kls).mean(), rel=1e-3) and kl > 0.01
    assert delta == pytest.approx(np.concatenate(deltas).mean(), rel=1e-3)


def test_a_closed_gate_costs_exactly_nothing(
    checkpoint: Checkpoint, rows: list[Row], said: list[Reply]
) -> None:
    policy = _gated(_policy(checkpoint.anatomy.width), -1.0)
    forced = forced_on_replies(checkpoint, rows, said, as_edit(checkpoint, policy))
    assert forced.means() == (0.0, 0.0)
    with pytest.raises(InputError, match="replies nothing"):
        forced_on_replies(checkpoint, rows[:1], [Reply((), "", True)], as_edit(checkpoint, policy))


def test_a_gate_is_told_by_its_scores_and_by_what_it_opens_for() -> None:
    policy = _gated(_policy(4), 0.0)
    values = [0.9, 0.2, -0.1, -0.5]
    decisions = {
        i: [Decision(i, "p", value, float(value > 0), float(value > 0), value > 0)]
        for i, value in enumerate(values)
    }
    harmful = np.array([True, False, True, False])
    found = gate_quality(policy, decisions, harmful)
    assert found == GateQuality(auroc=0.75, threshold=0.0, fpr=0.5, tpr=0.5, n=4)
    assert threshold_of(_policy(4)) is None


def test_throughput_is_a_ratio_of_seconds(checkpoint: Checkpoint, rows: list[Row]) -> None:
    ratio = throughput_ratio(
        checkpoint, _policy(checkpoint.anatomy.width), rows[:2], new_tokens=4, repeats=2
    )
    assert 0.1 < ratio < 10
