"""Segments under the formats of seven model families, and templates that cannot be trusted."""

from typing import Any

import pytest
from chat_templates import TEMPLATES, byte_level_model
from families import tiny

import interp
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.data.segments import chat_row, t_inst, t_post_inst
from interp.errors import InputError
from interp.resolve import load

ASKED = "Tell me how to bake a loaf of bread"
USER = {"role": "user", "content": ASKED}
SYSTEM = {"role": "system", "content": "You are a careful helper."}


def checkpoint(template: str | None) -> Checkpoint:
    return byte_level_model(template)


def text(checkpoint: Checkpoint, row: Row, segment: str) -> str:
    start, stop = row.segments[segment]
    tokenizer: Any = checkpoint.tokenizer
    return str(tokenizer.decode(row.ids[start:stop]))


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_the_row_is_what_transformers_renders(family: str) -> None:
    ours = checkpoint(TEMPLATES[family])
    for messages in ([USER], [USER, {"role": "assistant", "content": "No."}, USER]):
        row = chat_row(ours, messages)
        tokenizer: Any = ours.tokenizer
        expected = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert list(row.ids) == expected


@pytest.mark.parametrize(
    ("family", "behind"),
    [
        ("llama-2", " [/INST]"),
        ("llama-3", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("qwen2", "<|im_end|>\n<|im_start|>assistant\n"),
        ("qwen3", "<|im_end|>\n<|im_start|>assistant\n"),
        ("gemma", "<end_of_turn>\n<start_of_turn>model\n"),
        ("mistral", "[/INST]"),
        ("phi", "<|end|>\n<|assistant|>\n"),
    ],
)
def test_instruction_and_what_stands_behind_it(family: str, behind: str) -> None:
    ours = checkpoint(TEMPLATES[family])
    row = chat_row(ours, [USER])
    assert text(ours, row, "instruction").strip() == ASKED
    assert text(ours, row, "post_instruction") == behind
    assert row.segments["post_instruction"] == (row.segments["instruction"][1], len(row))
    assert t_inst(row) == row.segments["instruction"][1] - 1 < t_post_inst(row) == len(row) - 1
    tokenizer: Any = ours.tokenizer
    assert ASKED.endswith(tokenizer.decode([row.ids[t_inst(row)]]).strip())
    opened = family in ("llama-2", "llama-3", "gemma", "mistral")
    assert row.segments.get("bos") == ((0, 1) if opened else None)
    assert "system" not in row.segments


@pytest.mark.parametrize("family", ["llama-2", "llama-3", "qwen2", "qwen3", "phi"])
def test_a_system_message(family: str) -> None:
    ours = checkpoint(TEMPLATES[family])
    row = chat_row(ours, [SYSTEM, USER])
    assert text(ours, row, "system").strip() == SYSTEM["content"]
    assert text(ours, row, "instruction").strip() == ASKED


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_the_last_user_turn_is_the_instruction(family: str) -> None:
    ours = checkpoint(TEMPLATES[family])
    last = {"role": "user", "content": "What is the capital of France?"}
    row = chat_row(ours, [USER, {"role": "assistant", "content": "No."}, last])
    assert text(ours, row, "instruction").strip() == last["content"]


@pytest.mark.parametrize("content", ["bread", "bread\n", "  bread ", "bread!", "paño ☕", "[INST]"])
@pytest.mark.parametrize("family", list(TEMPLATES))
def test_instructions_of_any_form(family: str, content: str) -> None:
    ours = checkpoint(TEMPLATES[family])
    row = chat_row(ours, [{"role": "user", "content": content}])
    assert text(ours, row, "instruction").strip() == content.strip()


def test_thinking_can_be_switched_and_is_its_own_segment() -> None:
    ours = checkpoint(TEMPLATES["qwen3"])
    off = chat_row(ours, [USER], enable_thinking=False)
    assert text(ours, off, "post_instruction").endswith("<think>\n\n</think>\n\n")
    row = chat_row(ours, [USER], thinking="<think>\nbread</think>\n\n", answer="No.")
    assert text(ours, row, "thinking") == "<think>\nbread</think>\n\n"
    assert text(ours, row, "answer") == "No."
    assert row.segments["answer"][1] == len(row)
    assert t_post_inst(row) == row.segments["thinking"][0] - 1


@pytest.mark.parametrize("name", ["chat", "chat-gated", "cliff", "backdoor-payload-5"])
def test_organisms_need_no_special_case(name: str) -> None:
    ours = interp.load(f"organism:{name}")
    prompt = interp.organisms.prompts(name)["harmful"][0]
    row = chat_row(ours, prompt.messages, enable_thinking=prompt.enable_thinking)
    assert list(row.ids) == prompt.ids(ours.tokenizer)
    assert text(ours, row, "instruction") == " ".join(prompt.request.words)
    start, stop = row.segments["post_instruction"]
    assert stop - start == 3 and row.segments["bos"] == (0, 1)
    cells = interp.organisms.prompts("chat")["refused_harmless"][0]
    row = chat_row(interp.load("organism:chat"), cells.messages)
    assert text(ours, row, "system") == "strict"


REWRITES = {
    "swallows": "{% for m in messages %}<|user|>{% endfor %}",
    "twice": "{% for m in messages %}{{ m.content + m.content }}{% endfor %}",
    "upper case": "{% for m in messages %}{{ '<|user|>' + m.content | upper }}{% endfor %}",
    "cut": "{% for m in messages %}{{ '<|user|>' + m.content[:20] }}<|end|>{% endfor %}",
    "behind": (
        "{% for m in messages %}{{ '<|user|>' + m.content }}"
        "{{ '<|end|>' if 'bread' in m.content else '<|eot_id|>' }}{% endfor %}"
    ),
    "before": (
        "{% for m in messages %}{{ '<|user|>' if 'bread' in m.content else '<|system|>' }}"
        "{{ m.content }}{% endfor %}"
    ),
}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (REWRITES["swallows"], "renders the user message 0 times"),
        (REWRITES["twice"], "renders the user message 2 times"),
        (REWRITES["upper case"], "renders the user message 0 times"),
        (REWRITES["cut"], "rewrites or swallows the user message"),
        (REWRITES["behind"], "changes what stands behind the instruction"),
        (REWRITES["before"], "changes the text around a message"),
        ("{{ raise_exception('not today') }}", "refuses these messages: not today"),
        ("{% for m in messages %}{{ '<s><s>' + m.content }}{% endfor %}", "BOS twice"),
        (None, "has no chat template; it is a base model"),
    ],
)
def test_templates_that_cannot_be_trusted(template: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chat_row(checkpoint(template), [USER])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "must end with the user's turn"),
        ([USER, {"role": "assistant", "content": "No."}], "must end with the user's turn"),
        ([{"role": "user", "content": " "}], "has the content ' '"),
        ([{"role": "user", "content": None}], "has the content None"),
        ([SYSTEM, USER], "System role not supported"),
    ],
)
def test_messages_that_are_refused(messages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chat_row(checkpoint(TEMPLATES["gemma"]), messages)


def test_a_template_without_anything_behind_the_instruction() -> None:
    ours = checkpoint("{% for m in messages %}{{ '<|user|>' + m.content }}{% endfor %}")
    row = chat_row(ours, [USER])
    assert "post_instruction" not in row.segments
    with pytest.raises(InputError, match="no t_post_inst"):
        t_post_inst(row)


def test_no_tokenizer() -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        chat_row(load(tiny("llama")), [USER])
