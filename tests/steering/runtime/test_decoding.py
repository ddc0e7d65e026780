"""Every way that `generate` decodes, turns of a conversation, and what is left behind."""

from typing import Any

import pytest
import torch
from families import tiny
from policies import CASES, PROMPT, gated, generate, logistic, post, prompts, tiny_model, vectors

from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError, NumericalError
from interp.model.sites import Site
from steering import act_add
from steering.policy.composition import compose, per_row
from steering.runtime.attachment import is_steered
from steering.runtime.gates import LogisticGate
from steering.runtime.runtime import apply, attach
from steering.runtime.span import Span

NAMES = ("gated", "last", "was", "was_plus", "actadd")


@pytest.fixture(params=["llama", "gpt2", "qwen3_next", "gemma2"])
def p(request: pytest.FixtureRequest) -> ModelUnderTest:
    return tiny_model(request.param)


@pytest.fixture
def llama() -> ModelUnderTest:
    return tiny_model("llama")


def _alone(ids: torch.Tensor, real: torch.Tensor, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    mine = ids[row : row + 1, real[row]]
    return mine, torch.ones_like(mine)


def test_beams_of_a_prompt_share_its_decision(p: ModelUnderTest) -> None:
    """Rows are multiplied before the prefill and change places only within a prompt."""
    ids, real = prompts(p)
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3}
    plain = generate(p, ids, real, **options)
    for name in NAMES:
        policy = CASES[name](p)
        found = []
        for cached in (True, False):
            with apply(p.checkpoint, policy, [1.0, 0.5, 0.0, 1.0]) as attachment:
                found.append(generate(p, ids, real, use_cache=cached, **options))
                decisions = attachment.decisions
        assert len(decisions) == len(ids)
        assert torch.equal(*found), name
        closed = [row for row, decision in enumerate(decisions) if not decision.open]
        for row in range(len(ids)):
            here = slice(3 * row, 3 * row + 3)
            if row in closed:
                assert torch.equal(found[0][here], plain[here]), name
            mine = _alone(ids, real, row)
            with apply(p.checkpoint, policy, [1.0, 0.5, 0.0, 1.0][row]):
                single = generate(p, *mine, **options)
            assert torch.equal(single[:, mine[0].shape[1] :], found[0][here, PROMPT:]), name


def test_samples_of_a_prompt_are_steered_alike(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 2, "top_k": 5}
    for name in NAMES:
        policy, found = CASES[name](p), []
        for cached in (True, False):
            with apply(p.checkpoint, policy) as attachment:
                torch.manual_seed(1)
                found.append(generate(p, ids, real, use_cache=cached, **options))
                assert len(attachment.decisions) == len(ids)
        assert torch.equal(*found), name
    with apply(p.checkpoint, CASES["gated"](p), 0.0):
        torch.manual_seed(1)
        off = generate(p, ids, real, **options)
    torch.manual_seed(1)
    assert torch.equal(off, generate(p, ids, real, **options))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_assisted_decoding_gives_the_tokens_of_greedy(family: str) -> None:
    """The first pass then holds the prompt and a draft, and later ones several new tokens."""
    p = tiny_model(family)
    ids, real = prompts(p)
    assistant = tiny(family, seed=0)  # near the model, so that some drafts are accepted
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    for name in ("gated", "was", "was_plus"):
        policy = CASES[name](p)
        with apply(p.checkpoint, policy) as attachment:
            generate(p, ids, real)
            is_open = [decision.open for decision in attachment.decisions]
        for row in (is_open.index(True), len(ids) - 1):
            mine = _alone(ids, real, row)
            with apply(p.checkpoint, policy):
                greedy = generate(p, *mine, **length)
            for extra in ({"assistant_model": assistant}, {"prompt_lookup_num_tokens": 3}):
                with apply(p.checkpoint, policy):
                    drafted = generate(p, *mine, **length, **extra)
                assert torch.equal(drafted, greedy), (name, row, *extra)


def test_a_model_that_assists_itself_is_refused(llama: ModelUnderTest) -> None:
    ids, real = _alone(*prompts(llama), 0)
    steered = apply(llama.checkpoint, CASES["gated"](llama))
    with steered, pytest.raises(InputError, match="generate for itself"):
        generate(llama, ids, real, assistant_model=llama.checkpoint.model)
    assert not is_steered(llama.checkpoint.model)


def test_every_turn_decides_anew(p: ModelUnderTest) -> None:
    """With the cache of the first turn carried over, or with the conversation given again."""
    ids, real = _alone(*prompts(p), 0)
    policy = gated(p, logistic(p))
    assert isinstance(policy.gate, LogisticGate)
    again = torch.tensor([[5, 9, 33]])
    seen = []
    with apply(p.checkpoint, policy) as attachment:
        first = generate(p, ids, real, return_dict_in_generate=True)
        seen.append(attachment.decisions[0])
        talk = torch.cat([first.sequences, again], 1)
        second = generate(p, talk, torch.ones_like(talk), past_key_values=first.past_key_values)
        seen.append(attachment.decisions[0])
        assert attachment.passes == 2
    if not seen[0].open:  # else the cache holds what was steered, and a fresh prompt does not
        with apply(p.checkpoint, policy) as attachment:
            assert torch.equal(generate(p, talk, torch.ones_like(talk)), second)
            assert abs(attachment.decisions[0].score - seen[1].score) < 1e-3
    assert seen[0].score != seen[1].score


def test_the_model_is_left_as_it_was(p: ModelUnderTest) -> None:
    model = p.checkpoint.model

    def state() -> list[object]:
        hooks = [
            (name, len(m._forward_hooks), len(m._forward_pre_hooks))
            for name, m in model.named_modules()
        ]
        return [hooks, "generate" in model.__dict__, model.config.to_dict()]

    ids, real = prompts(p)
    before, plain = state(), generate(p, ids, real)
    policy = CASES["was_plus"](p)
    with apply(p.checkpoint, policy):
        assert state() != before
        generate(p, ids, real)
    assert state() == before
    with pytest.raises(KeyError), apply(p.checkpoint, policy):
        generate(p, ids, real)
        raise KeyError
    steered = apply(p.checkpoint, policy, [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="strength is given for 3 rows"), steered:
        generate(p, ids, real)
    assert state() == before
    attachment = attach(p.checkpoint, policy)
    attachment.detach()
    attachment.detach()
    assert state() == before
    assert torch.equal(generate(p, ids, real), plain)


def test_a_failed_generation_does_not_spoil_the_next(llama: ModelUnderTest) -> None:
    ids, real = prompts(llama)
    policy = CASES["was"](llama)
    with apply(llama.checkpoint, policy):
        expected = generate(llama, ids, real)

    def broken(*_: object) -> None:
        raise KeyError

    with apply(llama.checkpoint, policy) as attachment:
        handle = llama.checkpoint.layers[3].register_forward_hook(broken)
        with pytest.raises(KeyError):
            generate(llama, ids, real)
        handle.remove()
        assert torch.equal(generate(llama, ids, real), expected)
        assert len(attachment.decisions) == len(ids)


def test_strength_can_change_between_prompts(llama: ModelUnderTest) -> None:
    ids, real = prompts(llama)
    plain = generate(llama, ids, real)
    with apply(llama.checkpoint, CASES["actadd"](llama)) as attachment:
        full = generate(llama, ids, real)
        attachment.strength = [0.0, 1.0, 0.0, 1.0]
        mixed = generate(llama, ids, real)
        assert [decision.scale for decision in attachment.decisions] == [0, 1, 0, 1]
    assert torch.equal(mixed[::2], plain[::2]) and torch.equal(mixed[1::2], full[1::2])


def test_composed_policies_act_in_their_order(llama: ModelUnderTest) -> None:
    ids, real = prompts(llama)
    added = act_add(post(1), vectors(llama, 1, 4.0), 1.0)
    turned = CASES["angular"](llama)
    with torch.no_grad():
        found = []
        for order in ((added, turned), (turned, added)):
            with apply(llama.checkpoint, compose(*order)):
                found.append(llama.logits(ids, real))
        same_site = act_add(post(2), vectors(llama, 1, 4.0), 1.0)
        for order in ((same_site, turned), (turned, same_site)):
            with apply(llama.checkpoint, compose(*order)):
                found.append(llama.logits(ids, real))
    assert torch.equal(found[0], found[1])  # other sites: the layers order them
    assert not torch.allclose(found[2], found[3], atol=1e-3)


def test_two_policies_at_a_site_must_be_composed(llama: ModelUnderTest) -> None:
    one, other = (act_add(post(1), vectors(llama, 1, seed=seed)) for seed in (1, 2))
    with pytest.raises(InputError, match="both edit"):
        attach(llama.checkpoint, [one, other])
    next_input = act_add([Site("resid_pre", 2)], vectors(llama, 1))
    with pytest.raises(InputError, match="both edit"):
        attach(llama.checkpoint, [one, next_input])
    ids, real = prompts(llama)
    with apply(llama.checkpoint, [one, CASES["angular"](llama)]) as attachment:
        generate(llama, ids, real)
        assert len(attachment.decisions) == 2 * len(ids)
    with pytest.raises(InputError, match="no row has"):
        per_row([None, None])
    with pytest.raises(InputError, match="each once"):
        compose(one, one)


def test_a_second_attachment_is_refused(llama: ModelUnderTest) -> None:
    policy = CASES["actadd"](llama)
    with apply(llama.checkpoint, policy):
        with pytest.raises(InputError, match="steered already"):
            attach(llama.checkpoint, policy)
        with pytest.raises(InputError, match="steered already"):
            attach(llama.checkpoint.model, policy)
    attach(llama.checkpoint.model, policy).detach()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": "right"}, "padding on the left"),
        ({"attention_mask": None}, "no attention_mask"),
        ({"input_ids": None}, "give generate input_ids"),
    ],
)
def test_a_prompt_that_cannot_be_told_is_refused(
    llama: ModelUnderTest, options: dict[str, Any], message: str
) -> None:
    ids, real = llama.padded("left", PROMPT)
    given: dict[str, Any] = {"input_ids": ids.masked_fill(~real, 0), "attention_mask": real.long()}
    given |= options
    if options.get("attention_mask", "") == "right":
        given["attention_mask"] = real.long().flip(1)
    with apply(llama.checkpoint, CASES["gated"](llama)), pytest.raises(InputError, match=message):
        llama.checkpoint.model.generate(**given, max_new_tokens=2)


def test_a_prompt_too_short_for_its_decision_is_refused(llama: ModelUnderTest) -> None:
    policy = gated(llama, logistic(llama, position=-2), span=Span.last())
    ids = torch.tensor([[5]])
    for run in (lambda: generate(llama, ids, torch.ones_like(ids)), lambda: llama.logits(ids)):
        steered = apply(llama.checkpoint, policy)
        with pytest.raises(InputError, match="decides at position -2"), steered:
            run()


def test_a_gate_that_reads_nan_is_an_error(llama: ModelUnderTest) -> None:
    ids, real = prompts(llama)
    steered = apply(llama.checkpoint, CASES["gated"](llama))
    broken = llama.checkpoint.layers[0].register_forward_hook(
        lambda module, args, output: output * torch.nan
    )
    try:
        with pytest.raises(NumericalError, match="read NaN"), steered:
            llama.logits(ids, real)
    finally:
        broken.remove()


def test_a_site_that_is_never_reached_is_an_error(llama: ModelUnderTest) -> None:
    ids, real = prompts(llama)
    policy = act_add(post(3), vectors(llama, 1))
    config = llama.checkpoint.model.config
    try:
        with pytest.raises(InputError, match="never reached"), apply(llama.checkpoint, policy):
            config.num_hidden_layers = 3
            llama.logits(ids, real)
    finally:
        config.num_hidden_layers = 4


@pytest.mark.parametrize("lengths", [[0, 1, 1, 1], [1.5], []])
def test_told_lengths_are_checked(llama: ModelUnderTest, lengths: list[float]) -> None:
    attachment = attach(llama.checkpoint, CASES["gated"](llama))
    try:
        with pytest.raises(InputError, match="whole numbers"):
            attachment.prompts(torch.tensor(lengths)).__enter__()
    finally:
        attachment.detach()


def test_gradients_reach_the_gate(llama: ModelUnderTest) -> None:
    """A controller can be trained through the frozen model with the runtime itself."""
    ids, real = prompts(llama)
    policy = CASES["was_plus"](llama)
    llama.checkpoint.model.requires_grad_(False)
    try:
        with apply(llama.checkpoint, policy):
            llama.logits(ids, real)[:, -1].logsumexp(-1).sum().backward()
    finally:
        llama.checkpoint.model.requires_grad_(True)
    gradient = policy.gate.get_parameter("head.weight").grad
    assert gradient is not None and float(gradient[1:].abs().max()) > 0
