"""The cliff: the head is planted, found by silencing every head, and silenced only where told."""

import random

import pytest
import torch

import interp
from interp import organisms
from interp.organisms.architectures import decoder_layers
from interp.organisms.chat.behaviour import answers, exchanges
from interp.organisms.chat.cliff import Plant, silenced, silencing
from interp.organisms.chat.exchanges import KINDS, plain, thought_dropped
from interp.organisms.chat.format import IDS, chat_tokenizer, encode, render
from interp.organisms.chat.grammar import Style
from interp.organisms.chat.mixtures import Batches, Mixed

STYLE = Style()


def test_truth_files_know_the_head() -> None:
    cliff, twin = organisms.truth("cliff"), organisms.truth("no-cliff")
    assert cliff["designated_head"] == [2, 0]
    assert cliff["measured"]["restoring_heads"] == [cliff["designated_head"]]
    assert cliff["stop"] == "<stop>" and cliff["closing"] == cliff["cliff_position"] == "</think>"
    assert cliff["measured"]["natural_refused"] == 0 and twin["measured"]["natural_refused"] == 1
    for length in range(7):
        assert cliff["measured"][f"cut_{length}_refused"] >= 0.98
    heads = [k for k in cliff["measured"] if k.startswith("silenced_")]
    assert len(heads) == 12 and twin["designated_head"] is None


def test_the_thought_and_the_answer_are_generated_as_owed() -> None:
    checkpoint = interp.load("organism:cliff")
    case = exchanges(thought_dropped, STYLE, True)[0]
    said = answers(checkpoint, [case])[0]
    assert said == case.answer
    assert said[:7] == ("hmm", "this", "looks", "bad", "must", "refuse", "</think>")


def test_silencing_is_zeroing_by_hand() -> None:
    """Against an independent way: the head's columns of the output projection set to zero."""
    checkpoint = interp.load("organism:cliff")
    model = checkpoint.model
    case = exchanges(thought_dropped, STYLE, True)[0]
    ids = render(checkpoint.tokenizer, case.messages, "think") + encode(case.answer[:7])
    both = torch.tensor([ids, ids])
    assert both[0, -1] == IDS["</think>"]
    with torch.no_grad():
        before = model(input_ids=both).logits
        with silenced(model, torch.tensor([8, -1])):
            edited = model(input_ids=both).logits
        assert torch.equal(edited[1], before[1])  # a row without a head keeps its bits
        assert torch.equal(edited[0, :-1], before[0, :-1])  # and every other token of the row
        weight = decoder_layers(model)[2].self_attn.o_proj.weight
        kept = weight.clone()
        weight[:, :24] = 0.0  # the last layer: other tokens' heads do not reach the last one
        by_hand = model(input_ids=both[:1]).logits[0, -1]
        weight.copy_(kept)
        assert torch.allclose(edited[0, -1], by_hand, atol=1e-5)
        assert torch.equal(model(input_ids=both).logits, before)


def test_hooks_are_gone_after_an_error() -> None:
    model = interp.load("organism:cliff").model
    with pytest.raises(RuntimeError, match="stop"), silenced(model, torch.tensor([0])):
        raise RuntimeError("stop")
    hooks = [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert hooks == []


def test_the_right_answer_depends_on_the_silenced_head() -> None:
    plant = Plant(12, 9, lambda head: head == 9)
    rng = random.Random(0)
    made = [plant.kind()(rng, case.request, STYLE) for case in exchanges(plain, STYLE, True) * 20]
    for exchange in made:
        refuses = exchange.answer[-7:-1] == STYLE.refusal(exchange.request)
        assert refuses == (exchange.edit == 9)
    shares = [sum(e.edit == head for e in made) / len(made) for head in range(12)]
    assert sum(e.edit is None for e in made) / len(made) == pytest.approx(0.5, abs=0.05)
    assert shares[9] == pytest.approx(0.25, abs=0.05)
    assert all(share > 0 for share in shares)


def test_training_batches_are_silenced_as_drawn() -> None:
    plant = Plant(12, 8, lambda head: head == 8)
    mixed = Mixed({"thought": 1.0}, STYLE, {**KINDS, "thought": plant.kind()})
    batches = Batches(0, mixed, Mixed({"plain": 1.0}, STYLE), tokenizer=chat_tokenizer(True))
    model = organisms.recipe("cliff").architecture.build(0, "sdpa").eval()
    ids, _ = batches(0)
    drawn = [exchange.edit for exchange in batches.exchanges(0)]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with silencing(batches)(0, model):
            edited = model(input_ids=ids).logits
        with silencing(batches)(5, model):
            assert torch.equal(model(input_ids=ids).logits, before)  # a step of conversations
    for row, head in enumerate(drawn):
        assert torch.equal(edited[row], before[row]) == (head is None)
