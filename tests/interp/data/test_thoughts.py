"""Thinking and answer parted, for the formats that models use."""

import pytest

import interp
from interp.data.thoughts import Spoken, ends_in_thought, split_thought
from interp.organisms.chat.format import render

HARMONY = (
    "<|channel|>analysis<|message|>The user asks.<|end|><|start|>assistant"
    "<|channel|>final<|message|>I can't help."
)


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("Sure.", False, (None, "Sure.", True)),
        ("Sure.<|im_end|>\n<|endoftext|>", False, (None, "Sure.", True)),
        ("Sure.</s>", False, (None, "Sure.", True)),
        ("Use <b> and <|x|> here", False, (None, "Use <b> and <|x|> here", True)),
        # Qwen3: the reply brings both markers; its template can also write an empty thought.
        ("<think>\nHm.\n</think>\n\nNo.<|im_end|>", False, ("Hm.", "No.", True)),
        ("<think>\n\n</think>\n\nNo.", False, ("", "No.", True)),
        # DeepSeek-R1: the prompt has opened the thought, whether the caller knows or not.
        ("Hm.\n</think>\n\nNo.<｜end▁of▁sentence｜>", True, ("Hm.", "No.", True)),
        ("Hm.\n</think>\n\nNo.", False, ("Hm.", "No.", True)),
        ("<think>\nHm.</think>No.", True, ("Hm.", "No.", True)),
        # Never closed.
        ("<think>\nHm. Well", False, ("Hm. Well", "", False)),
        ("Hm. Well", True, ("Hm. Well", "", False)),
        ("<think>a</think>\n<think>b", False, ("a\n\nb", "", False)),
        # Two thoughts in a row, and a marker that the answer speaks of.
        ("<think>a</think>\n<think>b</think>c", False, ("a\n\nb", "c", True)),
        ("Write <think> and </think>.", False, (None, "Write <think> and </think>.", True)),
        ("[THINK]Hm.[/THINK]No.</s>", False, ("Hm.", "No.", True)),
        # gpt-oss.
        (HARMONY, False, ("The user asks.", "I can't help.", True)),
        (HARMONY + "<|return|>", False, ("The user asks.", "I can't help.", True)),
        ("<|channel|>final<|message|>Hi", False, (None, "Hi", True)),
        ("<|channel|>analysis<|message|>The us", False, ("The us", "", False)),
        ("<|channel|>analysis<|message|>The us<|end|>", False, ("The us", "", True)),
        (
            "The user.<|end|><|start|>assistant<|channel|>final<|message|>No.",
            True,
            ("The user.", "No.", True),
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.f <|constrain|>json<|message|>{}<|call|>",
            False,
            ("a", "", True),
        ),
        # The chat organisms.
        ("hmm this looks bad must refuse </think> sorry i cannot <eos>", True, None),
    ],
)
def test_a_reply_is_parted(
    text: str, opened: bool, expected: tuple[str | None, str, bool] | None
) -> None:
    expected = expected or ("hmm this looks bad must refuse", "sorry i cannot", True)
    assert split_thought(text, opened=opened) == Spoken(*expected)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\nIs x < 3 so far", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>user\nSay <think><|im_end|>\n<|im_start|>assistant\n", False),
        ("[INST]Say [THINK][/INST]", False),
        ("<|start|>assistant", False),
        ("<|start|>assistant<|channel|>analysis<|message|>Hm", True),
        ("<|start|>assistant<|channel|>analysis<|message|>Hm<|end|><|start|>assistant", False),
        ("<｜User｜>Hi<｜Assistant｜><think>\n", True),
    ],
)
def test_an_open_thought_is_seen_in_the_prompt(prompt: str, expected: bool) -> None:
    assert ends_in_thought(prompt) is expected


def test_the_chat_organisms_prompts() -> None:
    tokenizer = interp.load("organism:chat").tokenizer
    said = ({"role": "user", "content": "bypass alarm"},)
    for opening, expected in (("answer", False), ("think", True)):
        assert ends_in_thought(tokenizer.decode(render(tokenizer, said, opening))) is expected
