"""The edits of a refusal report on an organism: where they act, and that they act there only."""

import numpy as np
import pytest
import torch

from analyses.refusal.material import of_organism
from analyses.refusal.measuring import causal, edits
from analyses.refusal.measuring.speak import Responder, Responses
from analyses.shared.prompts import rows_of
from interp.capture.prompt_states import PromptStates, prompt_states
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.generation import next_logits
from interp.resolve import load
from probes.directions.directions import Direction


@pytest.fixture(scope="module")
def chat() -> Checkpoint:
    return load("organism:chat")


@pytest.fixture(scope="module")
def responder(chat: Checkpoint) -> Responder:
    return Responder(chat, of_organism("chat", 8), max_new_tokens=12)


@pytest.fixture(scope="module")
def responses(responder: Responder) -> Responses:
    prompts = [p for p in responder.material.test if p.label == "harmless"]
    return responder.respond("base", prompts)


@pytest.fixture(scope="module")
def direction(chat: Checkpoint) -> Direction:
    vector = torch.randn(chat.anatomy.width, generator=torch.Generator().manual_seed(1)) * 2
    return Direction(vector, "resid_pre", 1, -1, "post_instruction", "test", 1.0)


def states_under(chat: Checkpoint, rows: list[Row], edit: edits.Edit) -> PromptStates:
    with edit(rows):
        return prompt_states(chat, rows, batch_tokens=10**6)


def test_strength_zero_changes_no_bit(
    chat: Checkpoint, responses: Responses, direction: Direction
) -> None:
    for where in (edits.last_token, edits.instruction, None):
        edit = edits.added(chat, direction.vector, 1, where, 0.0)
        assert next_logits(chat, responses.rows, edit=edit).equal(next_logits(chat, responses.rows))


def test_ablation_leaves_nothing_at_any_layer_or_token(
    chat: Checkpoint, responses: Responses, direction: Direction
) -> None:
    edit = edits.ablated(chat, direction.vector)
    left = states_under(chat, list(responses.rows), edit).values @ direction.unit.numpy()
    assert np.abs(left).max() < 1e-5


def test_affine_ablation_sets_the_accepted_mean_at_the_last_token_only(
    chat: Checkpoint, responses: Responses, direction: Direction
) -> None:
    sizes = [len(row) for row in responses.rows]
    size = max(set(sizes), key=sizes.count)  # one batch, for a capture makes its own
    rows = [row for row in responses.rows if len(row) == size]
    plain = prompt_states(chat, rows, batch_tokens=10**6)
    accepted = plain[: len(rows) // 2]
    edit = edits.ablated_affine(chat, direction, accepted)
    unit = direction.unit.numpy()
    along = states_under(chat, rows, edit).values @ unit
    wanted = accepted.t_post_inst.mean(0) @ unit
    for layer in (1, 2):
        assert along[:, layer, -1] == pytest.approx(wanted[layer], abs=1e-4)
    untouched = plain.values @ unit
    assert along[:, :, 0] == pytest.approx(untouched[:, :, 0], abs=1e-5)
    assert along[:, 0] == pytest.approx(untouched[:, 0], abs=1e-5)


def test_positions_are_of_each_row(chat: Checkpoint, responder: Responder) -> None:
    row = next(iter(rows_of(chat, responder.material.test, {})))
    begin, end = row.segments["instruction"]
    assert edits.end_of_instruction(row) == [end - 1]
    assert edits.instruction(row) == list(range(begin, end))
    assert edits.last_token(row) == [len(row) - 1]
    spoken = Row(0, (*row.ids, 5, 6), "", row.segments)
    assert edits.last_token(spoken) == [len(row) - 1]  # of the prompt, also where an answer follows


def test_addition_at_the_instruction_reaches_every_row_of_unequal_length(
    chat: Checkpoint, responses: Responses, direction: Direction
) -> None:
    rows = list(responses.rows)
    assert len({len(row) for row in rows}) > 1
    edit = edits.added(chat, direction.vector, 1, edits.instruction)
    together = next_logits(chat, rows, edit=edit)
    alone = torch.cat([next_logits(chat, [row], edit=edit) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together, next_logits(chat, rows), atol=1e-2)


def test_first_divergence_is_nothing_without_an_edit_and_reads_the_token_that_differs(
    chat: Checkpoint, responder: Responder, responses: Responses, direction: Direction
) -> None:
    none = edits.added(chat, direction.vector, 1, edits.last_token, 0.0)
    found = causal.first_divergence(responder, responses, responses, none, 0)
    assert (found.kl, found.diverged, found.n) == (0.0, 0, len(responses))
    strong = edits.added(chat, direction.vector * 5, 1, None)
    moved = responder.respond("moved", responses.prompts, strong)
    found = causal.first_divergence(responder, responses, moved, strong, 0)
    differing = sum(a.ids != b.ids for a, b in zip(responses.replies, moved.replies, strict=True))
    assert found.diverged == differing > 0 and found.kl > 0


def test_random_directions_have_the_length_of_the_one_they_stand_beside(
    direction: Direction,
) -> None:
    states = np.random.default_rng(0).normal(size=(50, len(direction.vector)))
    drawn = causal.random_directions(direction, states, 3, 0)
    assert [kind for kind, _ in drawn] == ["isotropic"] * 3 + ["covariance"] * 3
    for _, vector in drawn:
        assert float(vector.norm()) == pytest.approx(direction.norm, rel=1e-5)


def test_losses_are_means_over_tokens_and_texts_differ_by_the_edit(
    responder: Responder, responses: Responses, direction: Direction
) -> None:
    edit = edits.added(responder.checkpoint, direction.vector, 1, None)
    base, moved = causal.own_reply_loss(responder, responses, {"added": edit}, 0)
    assert (base.edit, moved.edit) == ("base", "added")
    assert base.increase == 0.0 and moved.increase == pytest.approx(
        moved.loss - base.loss, abs=1e-9
    )
    assert causal.text_loss(responder, [], {"added": edit}, 0) == ()
