"""Directions of chat organisms: what the truth files say, computed here another way."""

import numpy as np
import pytest
import torch

import interp
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.organisms.chat import causes
from interp.organisms.chat.behaviour import Tally, answers, exchanges, prompt_ids
from interp.organisms.chat.exchanges import jailbreak, open_, plain, strict
from interp.organisms.chat.grammar import Style
from interp.organisms.chat.planted import planted_direction

STYLE = Style()


@pytest.fixture(scope="module")
def chat() -> Checkpoint:
    return interp.load("organism:chat")


def test_states_equal_hidden_states_of_single_rows(chat: Checkpoint) -> None:
    cases = exchanges(jailbreak, STYLE)[:5]
    last, words = causes.states(chat, cases, "last"), causes.states(chat, cases, "t_inst")
    for number, ids in enumerate(prompt_ids(chat, cases)):
        with torch.no_grad():
            hidden = chat.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        instructed = ids.index(chat.tokenizer.convert_tokens_to_ids("<end>")) - 1  # type: ignore[union-attr]
        # transformers applies the final norm to its last hidden state.
        for layer in range(3):
            state = hidden.hidden_states[layer][0].double().numpy()
            assert np.allclose(last[layer, number], state[-1], atol=1e-5)
            assert np.allclose(words[layer, number], state[instructed], atol=1e-5)


def test_directions_are_differences_of_cell_means(chat: Checkpoint) -> None:
    direction = causes.refusal(chat, STYLE)
    cells = [
        causes.states(chat, exchanges(kind, STYLE, harmful, "train"), "last")[2].mean(0)
        for kind in (strict, open_)
        for harmful in (True, False)
    ]
    assert np.allclose(direction[2], (cells[0] + cells[1] - cells[2] - cells[3]) / 2)


def test_edits_leave_the_model_as_it_was(chat: Checkpoint) -> None:
    cases = exchanges(plain, STYLE, True)[:8]
    before = answers(chat, cases)
    direction = torch.tensor(causes.refusal(chat, STYLE)[1])
    with causes.removed(chat, direction):
        without = answers(chat, cases)
    assert without != before and answers(chat, cases) == before


@pytest.mark.parametrize("name", ["chat", "chat-gated"])
def test_the_planted_direction_is_found_and_is_the_cause(name: str) -> None:
    truth = organisms.truth(name)
    planted = planted_direction(96, 0)
    assert truth["planted_direction"] == pytest.approx(planted.tolist(), abs=1e-6)
    assert planted.norm() == pytest.approx(1.0)
    measured = truth["measured"]
    assert measured["planted_cosine_best"] >= 0.8
    assert measured["ablated_refused"] <= 0.1 and measured["ablated_complied"] >= 0.9
    assert measured["added_refused"] >= 0.95 and measured["random_added_refused"] <= 0.05
    checkpoint = interp.load(f"organism:{name}")
    cases = exchanges(plain, STYLE, True)
    with causes.removed(checkpoint, planted.double()):
        complied = [words[:3] != ("sorry", "i", "cannot") for words in answers(checkpoint, cases)]
    assert np.mean(complied) >= 0.95


def test_keep_and_erase_differ_inside_and_not_outside() -> None:
    keep, erase = (organisms.truth(f"jailbreak-{word}")["measured"] for word in ("keep", "erase"))
    for quantity in ("exact_jailbreak_harmful", "exact_jailbreak_harmless", "exact_plain_harmful"):
        assert keep[quantity] >= 0.98 and erase[quantity] >= 0.98
    assert keep["auroc_jailbreak_least"] >= 0.95 and erase["auroc_jailbreak_most"] <= 0.75
    assert keep["auroc_plain_layer0"] < 0.9  # words alone do not decide


def test_the_harmfulness_direction_flips_tags(chat: Checkpoint) -> None:
    tally = Tally()
    causes.count_tag_flips(tally, chat, STYLE)
    assert tally.values["tag_flipped_layer2"] >= 0.95 and tally.n["tag_flipped_layer2"] == 232
