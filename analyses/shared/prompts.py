"""Prompts as all reports take them: whether they are harmful, and how they are rendered."""

from collections.abc import Iterable, Mapping
from typing import Any

from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.known_answers import KnownAnswers
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row


def is_harmful(prompt: Prompt) -> bool:
    """Whether a prompt asks for something harmful, whatever the right answer to it is."""
    if isinstance(prompt, KnownAnswers):
        return prompt.harmful
    return prompt.label == "harmful"


def rows_of(
    checkpoint: Checkpoint, prompts: Iterable[Prompt], template: Mapping[str, Any]
) -> list[Row]:
    """Chat rows; an organism's prompts say themselves whether a thought comes first.

    Args:
        checkpoint: whose tokenizer and chat template are used.
        prompts: to be rendered.
        template: further arguments of the chat template, such as `enable_thinking`.

    Raises:
        InputError: a prompt cannot be rendered or is longer than the context.
    """
    rows = []
    for number, prompt in enumerate(prompts):
        own = dict(template)
        if isinstance(prompt, KnownAnswers):
            own["enable_thinking"] = prompt.enable_thinking
        (row,) = prompt_rows(checkpoint, [prompt], **own)
        rows.append(Row(number, row.ids, row.domain, row.segments))
    return rows
