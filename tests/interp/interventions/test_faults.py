"""Interventions leave no trace, and refuse what would silently do nothing or the wrong thing."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
import transformers
from families import VOCAB, WINDOW
from models_under_test import (
    HEADS,
    INTERVENTIONS,
    last_softmax,
    logits_of,
    model_under_test,
    value_at,
    vector_for,
)

from interp.doctor.model_under_test import ModelUnderTest, prepare
from interp.errors import InputError, UnsupportedModelError
from interp.interventions.edits_by_site import (
    ablate_direction,
    add_vector,
    drop_massive_activation,
    move_to_sink,
    patch,
    perturb_heads,
    scale_heads,
    zero_heads,
)
from interp.interventions.replay import start_at
from interp.model.sites import Site
from interp.resolve import load

LENGTH = 8


@pytest.fixture
def llama() -> ModelUnderTest:
    return model_under_test("llama", LENGTH)


def _traces(model: Any) -> list[Any]:
    hooks = [
        (name, key, list(value))
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if "_hooks" in key and value
    ]
    return [hooks, model.config._attn_implementation_internal, repr(model.config)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_next", "gpt2"])
def test_nothing_is_left_behind(family: str) -> None:
    tested = model_under_test(family, LENGTH)
    model, before = tested.checkpoint.model, _traces(tested.checkpoint.model)
    assert before[0] == []
    with ExitStack() as stack:
        for open_case in INTERVENTIONS.values():
            stack.enter_context(open_case(tested))
        logits_of(tested)
    assert _traces(model) == before
    with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        for open_case in INTERVENTIONS.values():
            stack.enter_context(open_case(tested))
        raise KeyboardInterrupt
    assert _traces(model) == before
    with (
        pytest.raises(InputError, match="row"),
        zero_heads(tested.checkpoint, last_softmax(tested), torch.ones(3, HEADS).bool()),
    ):
        logits_of(tested)
    assert _traces(model) == before


def test_an_edit_that_never_acts_is_refused(llama: ModelUnderTest) -> None:
    vector, checkpoint = vector_for(llama), llama.checkpoint
    hidden = value_at(llama, Site("resid_pre", 2))
    with (
        pytest.raises(InputError, match=r"blocks.1.hook_mlp_out did nothing: the model ran 1 time"),
        start_at(checkpoint, 2, hidden),
        add_vector(checkpoint, vector, Site("mlp_out", 1)),
    ):
        logits_of(llama)
    with (
        pytest.raises(InputError, match="no token of the 1 pass"),
        add_vector(checkpoint, vector, Site("mlp_out", 1), positions=[99]),
    ):
        logits_of(llama)
    with add_vector(checkpoint, vector, Site("mlp_out", 1), positions=[99]):
        pass  # the model was not run, so there is nothing to complain of


REFUSALS: dict[str, tuple[Any, str]] = {
    "zero vector": (
        lambda c: ablate_direction(c, torch.zeros(32), [Site("resid_post", 0)]),
        "zero",
    ),
    "not a number": (
        lambda c: ablate_direction(c, torch.full((32,), float("nan")), [Site("resid_post", 0)]),
        "NaN",
    ),
    "wrong width": (lambda c: ablate_direction(c, torch.ones(31), [Site("resid_post", 0)]), "31"),
    "no site": (lambda c: ablate_direction(c, torch.ones(32), []), "no site"),
    "no layer": (lambda c: zero_heads(c, 9, [0]), "no layer 9"),
    "no head": (lambda c: zero_heads(c, 0, [4]), "heads 0 to 3"),
    "empty heads": (lambda c: zero_heads(c, 0, []), "0 to 3"),
    "scales": (lambda c: scale_heads(c, 0, torch.ones(5)), r"\[batch, 4\]"),
    "strength": (
        lambda c: add_vector(c, torch.ones(32), Site("resid_post", 0), float("inf")),
        "inf",
    ),
    "negative": (
        lambda c: add_vector(c, torch.ones(32), Site("resid_post", 0), positions=[-1]),
        "negative",
    ),
    "repeated": (
        lambda c: add_vector(c, torch.ones(32), Site("resid_post", 0), positions=[1, 1]),
        "repeats",
    ),
    "empty": (
        lambda c: add_vector(c, torch.ones(32), Site("resid_post", 0), positions=[]),
        "no list of whole numbers|empty",
    ),
    "read only": (lambda c: add_vector(c, torch.ones(32), Site("rot_q", 0)), "not edited"),
    "embed": (lambda c: add_vector(c, torch.ones(32), Site("embed"), positions=[1]), "resid_pre:0"),
    "dim": (lambda c: drop_massive_activation(c, 0, 32, 0), "0 to 31"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_arguments_are_refused_on_entry(llama: ModelUnderTest, case: str) -> None:
    make, message = REFUSALS[case]
    with pytest.raises(InputError, match=message), make(llama.checkpoint):
        pytest.fail("the context was entered")
    assert _traces(llama.checkpoint.model)[0] == []


def test_per_row_arguments_must_fit_the_batch(llama: ModelUnderTest) -> None:
    checkpoint, site = llama.checkpoint, Site("resid_post", 0)
    contexts = [
        add_vector(checkpoint, torch.ones(32), site, [1.0, 2.0]),
        add_vector(checkpoint, torch.ones(32), site, positions=torch.tensor([[1], [2]])),
        scale_heads(checkpoint, 0, torch.ones(2, HEADS)),
        move_to_sink(checkpoint, 0, torch.ones(2, HEADS).bool()),
        perturb_heads(checkpoint, 0, torch.ones(2, HEADS).bool()),
        patch(checkpoint, site, torch.ones(2, LENGTH, 32)),
        patch(checkpoint, site, torch.ones(3, 32), [0, 1]),
    ]
    for context in contexts:
        with pytest.raises(InputError, match=r"2 row|has shape"), context:
            logits_of(llama)


def test_a_window_that_hides_the_first_token_is_refused() -> None:
    tested = model_under_test("mistral", LENGTH)
    ids = torch.randint(3, VOCAB, (2, WINDOW + 1))
    with move_to_sink(tested.checkpoint, 0, [0]):
        logits_of(tested, None, ids[:, :WINDOW])
    with (
        pytest.raises(InputError, match=f"sees {WINDOW} tokens back"),
        move_to_sink(tested.checkpoint, 0, [0]),
    ):
        logits_of(tested, None, ids)
    # Padding does not count: the row's first real token is within the window of its last.
    real = torch.ones_like(ids).bool()
    real[:, :3] = False
    with move_to_sink(tested.checkpoint, 0, [0]):
        logits_of(tested, real, ids)


def test_a_linear_attention_layer_has_no_heads() -> None:
    tested = model_under_test("qwen3_next", LENGTH)
    with (
        pytest.raises(InputError, match="linear attention"),
        zero_heads(tested.checkpoint, 0, [0]),
    ):
        pytest.fail("the context was entered")


def test_scaling_heads_needs_no_attention_interface() -> None:
    config = transformers.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=HEADS)
    tested = prepare(load(transformers.AutoModelForCausalLM.from_config(config)), seed=0)
    plain = logits_of(tested)
    with zero_heads(tested.checkpoint, 0, [1]):
        assert not torch.equal(logits_of(tested), plain)
    with (
        pytest.raises(UnsupportedModelError, match="position_ids"),
        add_vector(tested.checkpoint, torch.ones(32), Site("resid_post", 0), positions=[0]),
    ):
        logits_of(tested)
    with (
        pytest.raises((InputError, UnsupportedModelError)),
        move_to_sink(tested.checkpoint, 0, [0]),
    ):
        pytest.fail("the context was entered")
