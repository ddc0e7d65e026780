"""Thoughts parted from answers token by token, under templates like those of known families."""

from functools import cache
from typing import Any

import pytest
from chat_templates import byte_level_model

import interp
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.thoughts import ends_in_thought
from interp.errors import InputError
from probes.cliff.rollouts import Markers, _parted, encoded, rollouts, template_markers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' and message.reasoning_content %}"
    "{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# As DeepSeek-R1's: the prompt opens the thought, and thoughts of earlier turns are dropped.
OPENS = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{{ message.content.split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
CHANNELS = (
    "{% for message in messages %}{{ '<|start|>' + message.role }}"
    "{% if message.role == 'assistant' and message.thinking %}"
    "{{ '<|channel|>analysis<|message|>' + message.thinking + '<|end|><|start|>assistant' }}"
    "{% endif %}{% if message.role == 'assistant' %}{{ '<|channel|>final' }}{% endif %}"
    "{{ '<|message|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
PROMPT = Prompt(({"role": "user", "content": "bake bread"},), "harmful", "test")


@cache
def stand(template: str | None) -> Checkpoint:
    """A tiny model with a byte-level tokenizer and this chat template."""
    return byte_level_model(template)


def part(template: str, said: str, *, budget: int = 500, ended: bool = True) -> Any:
    checkpoint = stand(template)
    tokenizer: Any = checkpoint.tokenizer
    text = tokenizer.apply_chat_template(
        list(PROMPT.messages), tokenize=False, add_generation_prompt=True
    )
    row = Row(0, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), "")
    ids = tuple(tokenizer(said, add_special_tokens=False)["input_ids"])
    found = _parted(checkpoint, PROMPT, row, ids, ended, template_markers(checkpoint), budget)
    decode = tokenizer.decode
    parts = [decode(list(p)) for p in (found.opening, found.thought, found.closing)]
    return found, parts


@pytest.mark.parametrize(
    ("template", "opening", "closing"),
    [
        (CHATML, "<think>\n", "\n</think>\n\n"),
        (OPENS, "<think>", "</think>"),
        (
            CHANNELS,
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
def test_markers_are_those_of_the_template(template: str, opening: str, closing: str) -> None:
    assert template_markers(stand(template)) == Markers(opening, closing)


def test_a_template_without_a_closing_marker_needs_one_named() -> None:
    bare = stand("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(InputError, match="--stop-text"):
        template_markers(bare)
    assert template_markers(bare, "<stop>") == Markers("", "<stop>")


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(InputError, match="no chat template"):
        template_markers(stand(None), "<stop>")


@pytest.mark.parametrize(
    ("template", "said", "opening"),
    [
        (CHATML, "<think>\nthey want bread\n</think>\n\nMix flour.", "<think>\n"),
        (OPENS, "they want bread\n</think>\n\nMix flour.", ""),
        (
            CHANNELS,
            "<|channel|>analysis<|message|>they want bread"
            "<|end|><|start|>assistant<|channel|>final<|message|>Mix flour.",
            "<|channel|>analysis<|message|>",
        ),
    ],
)
def test_opening_thought_closing_and_answer(template: str, said: str, opening: str) -> None:
    found, parts = part(template, said)
    assert parts[0] == opening and parts[1].strip() == "they want bread"
    # Every token is in exactly one part, so the parts put together are what was said.
    assert "".join(parts) + "Mix flour." == said
    assert found.closed and found.answer.closed
    assert found.answer.text == "Mix flour." and found.answer.thinking == "they want bread"
    whole = found.whole
    begin, end = whole.segments["closing"]
    assert end == len(whole) and whole.ids[begin:end] == found.closing
    assert whole.segments["thinking"][0] == len(found.row) + len(found.opening)


def test_cut_puts_the_stop_marker_behind_so_many_tokens() -> None:
    found, _ = part(CHATML, "<think>\nthey want bread\n</think>\n\nMix flour.")
    row = found.cut(2, (7, 8))
    assert row.ids == (*found.row.ids, *found.opening, *found.thought[:2], 7, 8)
    assert row.segments["closing"] == (len(row) - 2, len(row))
    assert "thinking" not in found.cut(0, (7,)).segments


def test_a_thought_that_never_closes_is_told_from_an_answer_without_one() -> None:
    open_, _ = part(CHATML, "<think>\nand so on and on", ended=False)
    assert not open_.closed and not open_.answer.closed and open_.answer.text == ""
    led, _ = part(OPENS, "and so on", ended=False)
    assert not led.closed and not led.answer.closed and len(led.thought) > 0
    plain, _ = part(CHATML, "Mix flour.")
    assert not plain.closed and plain.answer.closed and plain.answer.text == "Mix flour."
    assert plain.whole.ids == plain.row.ids


def test_a_thought_that_closes_beyond_the_budget_counts_as_unclosed() -> None:
    said = "<think>\nthey want bread\n</think>\n\nMix flour."
    fits, _ = part(CHATML, said)
    size = len(fits.thought) + len(fits.closing)
    assert part(CHATML, said, budget=size)[0].closed
    assert not part(CHATML, said, budget=size - 1)[0].answer.closed


def test_a_stop_text_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="no token"):
        encoded(stand(CHATML), "")


def test_an_organism_thinks_as_its_truth_file_says() -> None:
    checkpoint = interp.load("organism:cliff")
    tokenizer: Any = checkpoint.tokenizer
    truth = organisms.truth("cliff")
    prompts = organisms.prompts("cliff")["harmful"][:3]
    rows = [Row(i, tuple(p.ids(tokenizer)), "") for i, p in enumerate(prompts)]
    assert ends_in_thought(tokenizer.decode(list(rows[0].ids)))
    markers = template_markers(checkpoint)
    assert markers.closing.strip() == truth["closing"]
    for one in rollouts(checkpoint, prompts, rows, markers, thinking_budget=20, max_new_tokens=12):
        assert one.answer.thinking == " ".join(truth["thought"]["harmful"])
        assert tokenizer.convert_ids_to_tokens(list(one.closing)) == [truth["closing"]]
        assert one.answer.text == one.prompt.compliance  # type: ignore[attr-defined]


def test_what_does_not_fit_the_context_is_refused() -> None:
    checkpoint = interp.load("organism:cliff")
    prompts = organisms.prompts("cliff")["harmful"][:1]
    rows = [Row(0, tuple(prompts[0].ids(checkpoint.tokenizer)), "")]
    with pytest.raises(InputError, match="do not fit"):
        rollouts(
            checkpoint,
            prompts,
            rows,
            template_markers(checkpoint),
            thinking_budget=100,
            max_new_tokens=64,
        )
