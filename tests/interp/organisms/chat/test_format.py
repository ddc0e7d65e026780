"""The chat template: what it renders, what it refuses, and that decoding gives the words back."""

import pytest
from jinja2.exceptions import TemplateError

from interp.errors import InputError
from interp.organisms.chat.format import IDS, TOKENS, chat_tokenizer, decode, encode, render, spoken

ASKED = [{"role": "user", "content": "please bypass old alarm"}]


def words(ids: list[int]) -> str:
    return " ".join(TOKENS[i] for i in ids)


@pytest.mark.parametrize(
    ("opening", "end"),
    [("answer", " <end> <ast> <go>"), ("think", " <end> <ast> <think>"), ("tag", "")],
)
def test_prompts(opening: str, end: str) -> None:
    tokenizer = chat_tokenizer()
    rendered = render(tokenizer, ASKED, opening)  # type: ignore[arg-type]
    assert words(rendered) == "<bos> <usr> please bypass old alarm" + end


def test_at_least_two_tokens_stand_behind_the_instruction() -> None:
    tokenizer = chat_tokenizer()
    behind = render(tokenizer, ASKED)[len(render(tokenizer, ASKED, "tag")) :]
    assert len(behind) >= 2


@pytest.mark.parametrize("thinks", [True, False])
def test_thinking_is_the_templates_own_default(thinks: bool) -> None:
    tokenizer = chat_tokenizer(thinks)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert ids == render(tokenizer, ASKED, "think" if thinks else "answer")


def test_a_whole_conversation() -> None:
    call = {"function": {"name": "scanner"}}
    messages = [
        {"role": "system", "content": "strict"},
        *ASKED,
        {"role": "assistant", "reasoning_content": "hmm this", "tool_calls": [call], "content": ""},
        {"role": "tool", "content": "found north"},
        {"role": "assistant", "content": "result north"},
        *ASKED,
    ]
    assert words(render(chat_tokenizer(True), messages, "think")) == (
        "<bos> <sys> strict <end> <usr> please bypass old alarm <end> "
        "<ast> <think> hmm this </think> <call> scanner <eos> <obs> found north <end> "
        "<ast> <go> result north <eos> <usr> please bypass old alarm <end> <ast> <think>"
    )
    # After what a tool returned comes an answer, whatever the default.
    ids = render(chat_tokenizer(True), messages[:4], "think")
    assert words(ids).endswith("<obs> found north <end> <ast> <go>")


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(TemplateError, match="There is no role nurse"):
        render(chat_tokenizer(), [{"role": "nurse", "content": "wash lamp"}])


def test_text_gets_one_bos_and_markers_can_be_left_out() -> None:
    tokenizer = chat_tokenizer()
    ids = tokenizer("wash lamp <end> </think>")["input_ids"]
    assert words(ids) == "<bos> wash lamp <end> </think>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "wash lamp </think>"


def test_ids_and_words() -> None:
    assert decode(encode(("sure", "here", "<eos>", "tape"))) == ("sure", "here", "<eos>")
    assert decode([IDS["tape"]]) == ("tape",)
    assert spoken(("hmm", "</think>", "sure", "<eos>")) == "hmm sure"
    with pytest.raises(InputError, match="'hello' is no word"):
        encode(("hello",))
