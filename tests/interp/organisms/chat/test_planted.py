"""The planted direction while training: rows are edited as drawn, and the model is left alone."""

import random

import pytest
import torch

from interp import organisms
from interp.organisms.architectures import decoder_layers
from interp.organisms.chat.format import EOS
from interp.organisms.chat.grammar import Style
from interp.organisms.chat.mixtures import Batches, Mixed
from interp.organisms.chat.planted import Edited, PlantedEdit, editing, planted_direction

STYLE = Style()


def batches() -> Batches:
    rows = Mixed({"plain": 1.0, "strict": 1.0, "open": 1.0, "tag": 1.0}, STYLE)
    return Batches(0, Edited(rows), Mixed({"plain": 1.0}, STYLE))


def test_the_direction_is_a_unit_vector_of_its_seed() -> None:
    assert planted_direction(96, 3).norm() == pytest.approx(1.0)
    assert torch.equal(planted_direction(96, 3), planted_direction(96, 3))
    assert abs(float(planted_direction(96, 3) @ planted_direction(96, 4))) < 0.4


def test_answers_are_those_that_the_edit_makes_right() -> None:
    rng = random.Random(0)
    made = [batches().rows(rng) for _ in range(2000)]
    for exchange in made:
        if exchange.edit == PlantedEdit.REMOVE:
            assert exchange.answer == (*STYLE.compliance(exchange.request), EOS)
        if exchange.edit == PlantedEdit.ADD:
            assert exchange.answer == (*STYLE.refusal(exchange.request), EOS)
    untouched = [
        e for e in made if e.edit in (None, PlantedEdit.REMOVE_RANDOM, PlantedEdit.ADD_RANDOM)
    ]
    honest = [e for e in untouched if e.kind == "plain"]
    assert all(e.answer == (*STYLE.honest(e.request), EOS) for e in honest)
    assert {e.edit for e in made if e.kind == "tag"} == {None}
    assert {e.edit for e in made} == {None, *PlantedEdit}


def test_rows_are_edited_as_drawn_and_only_while_it_lasts() -> None:
    source = batches()
    model = organisms.recipe("chat").architecture.build(0, "sdpa").eval()
    ids, _ = source(0)
    drawn = [exchange.edit for exchange in source.exchanges(0)]
    planted = planted_direction(96, 0)
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with editing(source, 96, 0)(0, model):
            handle = decoder_layers(model)[2].register_forward_hook(
                lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            edited = model(input_ids=ids).logits
            handle.remove()
        assert torch.equal(model(input_ids=ids).logits, before)
    for row, edit in enumerate(drawn):
        assert torch.equal(edited[row], before[row]) == (edit is None)
        if edit == PlantedEdit.REMOVE:
            assert (seen[0][row] @ planted).abs().max() < 1e-4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
