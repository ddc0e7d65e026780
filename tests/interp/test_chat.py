"""Talking to a checkpoint: one reply, rows of any number of conversations, and what is refused."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from chatters import chatter
from families import tiny

import interp
from interp import Checkpoint, InputError, organisms
from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import SteeringPolicy
from interp.data.rows import Row
from interp.data.thoughts import split_thought
from interp.generation import replies
from interp.interventions.edits_by_site import add_vector
from interp.model.sites import Site
from steering import Policy, act_add, compose

HELLO = {"role": "user", "content": "Hello there."}
TURNS = [HELLO, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def organism() -> Checkpoint:
    return interp.load("organism:chat")


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return chatter("qwen3")


def test_the_organism_answers_as_it_was_trained(organism: Checkpoint) -> None:
    some = organisms.prompts("chat")
    for prompt in (some["harmful"][0], some["refused_harmless"][0]):
        reply = organism.chat(prompt.messages, max_new_tokens=16)
        assert reply.text == prompt.answer and reply.ended
        assert reply == replies(organism, prompt_rows(organism, [prompt]), max_new_tokens=16)[0]
    text = some["harmful"][0].text
    said = organism.chat(text, max_new_tokens=16)
    assert said == organism.chat([{"role": "user", "content": text}], max_new_tokens=16)


def test_a_thought_stays_in_the_text() -> None:
    """The template opens the thought, so the reply holds its end."""
    checkpoint = interp.load("organism:cliff")
    prompt = next(p for p in organisms.prompts("cliff")["harmful"] if p.enable_thinking)
    reply = checkpoint.chat(prompt.messages, max_new_tokens=24, enable_thinking=True)
    parts = split_thought(reply.text, opened=True)
    assert parts.thinking and parts.closed and parts.answer
    assert "</think>" in reply.text and parts.answer in prompt.answer


@pytest.mark.parametrize(
    ("given", "contents"),
    [
        ("Hello there.", ["Hello there."]),
        ([HELLO], ["Hello there."]),
        (TURNS, ["Who?"]),
        (["Hello there.", "Who?"], ["Hello there.", "Who?"]),
        ([TURNS, [HELLO], "So?"], ["Who?", "Hello there.", "So?"]),
    ],
)
def test_rows_are_made_of_texts_and_conversations(
    small: Checkpoint, given: Any, contents: list[str]
) -> None:
    rows = small.rows(given)
    assert [row.index for row in rows] == list(range(len(contents)))
    for row, content in zip(rows, contents, strict=True):
        begin, end = row.segments["instruction"]
        assert small.tokenizer is not None
        assert small.tokenizer.decode(row.ids[begin:end]) == content


def test_the_template_is_given_what_it_takes(small: Checkpoint) -> None:
    plain, empty = small.rows("Who?")[0], small.rows("Who?", enable_thinking=False)[0]
    assert len(empty) > len(plain) and empty.ids[: len(plain)] == plain.ids
    assert small.chat("Who?", max_new_tokens=4).ids == small.chat("Who?", max_new_tokens=4).ids


class Pushing:
    """A policy of another make: all that is asked of one is `as_edit`."""

    def as_edit(
        self, checkpoint: Checkpoint
    ) -> Callable[[Sequence[Row]], AbstractContextManager[None]]:
        @contextmanager
        def edit(rows: Sequence[Row]) -> Iterator[None]:
            push = torch.full((checkpoint.anatomy.width,), 5.0)
            push[::2] = -5.0
            with add_vector(checkpoint, push, Site("resid_post", 0)):
                yield

        return edit


def test_a_policy_steers_the_reply_alone(small: Checkpoint) -> None:
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    policy = act_add([Site("resid_post", 0)], vector, 20.0)
    plain = small.chat(TURNS, max_new_tokens=8)
    steered = small.chat(TURNS, max_new_tokens=8, policy=policy)
    assert steered.ids != plain.ids
    edit = policy.as_edit(small)
    assert steered == replies(small, small.rows(TURNS), max_new_tokens=8, edit=edit)[0]
    assert small.chat(TURNS, max_new_tokens=8, policy=compose(policy)) == steered
    assert small.chat(TURNS, max_new_tokens=8, policy=Pushing()).ids != plain.ids
    assert small.chat(TURNS, max_new_tokens=8) == plain
    assert isinstance(policy, SteeringPolicy) and isinstance(Pushing(), SteeringPolicy)


def test_a_policy_of_another_width_is_refused(small: Checkpoint) -> None:
    policy: Policy = act_add([Site("resid_post", 0)], torch.ones(1, 8), 1.0)
    with pytest.raises(InputError, match="8 wide, but the residual stream"):
        small.chat("Who?", policy=policy)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "content ''; give text"),
        ([], "what is to be read is empty; give a text, a list of messages"),
        (None, "what is to be read is None; give a text"),
        (7, "what is to be read is 7; give a text"),
        (HELLO, "what is to be read is of type dict; give a text, a list of messages"),
        ([HELLO, "Who?"], "a conversation is of type dict; give a text"),
        ([7], "a conversation is 7; give a text"),
        ([[]], "a conversation is empty; give a text"),
        ([{"role": "user"}], "a message is of type dict without role and content"),
        ([["Who?"]], "a message is the string 'Who\\?' without role and content"),
        (TURNS[:2], "must end with the user's turn"),
        ([{"role": "user", "content": 7}], "content 7; give text"),
        (["Hello", "Who?"], "chat was given 2 conversations and answers one"),
    ],
)
def test_what_is_no_conversation_is_refused(small: Checkpoint, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        small.chat(given)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "calm.safetensors"}, "policy is the string 'calm.safetensors', and must be"),
        (
            {"max_new_tokens": "many"},
            "max_new_tokens is the string 'many', and must be of",
        ),
        ({"max_new_tokens": 0}, "at least one prompt and one new token"),
        ({"max_new_tokens": 5000}, "do not fit"),
    ],
)
def test_bad_options_are_refused(small: Checkpoint, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small.chat("Who?", **options)


def test_a_model_that_cannot_be_talked_to_says_why() -> None:
    with pytest.raises(InputError, match="has no chat template; it is a base model"):
        chatter(None).chat("Who?")
    with pytest.raises(InputError, match="has no tokenizer, so no conversation"):
        interp.load(tiny("llama")).chat("Who?")


def test_a_checkpoint_prints_as_one_line(organism: Checkpoint) -> None:
    assert repr(organism) == (
        "Checkpoint(organism:chat, llama, 3 layers x 96, 0.4 M parameters, float32, cpu)"
    )
    tiny_one = repr(interp.load(tiny("gpt2", torch.bfloat16)))
    assert (
        tiny_one
        == "Checkpoint(GPT2LMHeadModel, gpt2, 4 layers x 32, 62.2 k parameters, bfloat16, cpu)"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(864, "864"), (62_240, "62.2 k"), (213_000, "0.2 M"), (135e6, "135.0 M"), (8.03e9, "8.0 B")],
)
def test_numbers_of_parameters_are_short(small: Checkpoint, count: int, text: str) -> None:
    from dataclasses import replace

    sized = replace(small, anatomy=replace(small.anatomy, parameters=int(count)))
    assert f", {text} parameters," in repr(sized)
