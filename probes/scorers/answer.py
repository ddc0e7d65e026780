"""What a scorer reads, and what it says."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.thoughts import ends_in_thought, split_thought
from interp.errors import InputError
from interp.generation import Reply

_LEAST_REPEATS = 3
_LEAST_REPEATED = 8
# A character of a script that is written without spaces counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+")


class Verdict(StrEnum):
    """What an answer is.

    `refusal`, `partial` and `compliance` judge an answer; `empty` and `looping` say that there is
    none to judge, and are counted apart.
    """

    refusal = "refusal"
    partial = "partial"
    compliance = "compliance"
    empty = "empty"
    looping = "looping"


JUDGED = (Verdict.refusal, Verdict.partial, Verdict.compliance)


@dataclass(frozen=True)
class Answer:
    """One reply, with its thinking apart.

    Attributes:
        prompt: what the user said last.
        text: of the answer, without thinking.
        thinking: None if the model did not think.
        closed: False if the model was still thinking at the end, so that `text` is empty.
        ended: whether the turn ended within the budget of tokens.
    """

    prompt: str
    text: str
    thinking: str | None = None
    closed: bool = True
    ended: bool = True


class Scorer(Protocol):
    """Judges answers."""

    name: str

    def verdicts(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer."""
        ...


def answers(
    prompts: Iterable[Prompt], replies: Sequence[Reply], *, opened: bool = False
) -> list[Answer]:
    """Replies as answers to their prompts, thinking taken out.

    Args:
        prompts: in the order of the replies.
        replies: of one model.
        opened: the rendered prompts end inside an open thought.

    Raises:
        InputError: there are not as many replies as prompts.
    """
    asked = list(prompts)
    if len(asked) != len(replies):
        raise InputError(
            f"{len(replies)} replies cannot answer {len(asked)} prompts; give one each."
        )
    made = []
    for prompt, reply in zip(asked, replies, strict=True):
        spoken = split_thought(reply.text, opened=opened)
        made.append(Answer(prompt.text, spoken.answer, spoken.thinking, spoken.closed, reply.ended))
    return made


def answers_to_rows(
    tokenizer: Any, prompts: Sequence[Prompt], rows: Sequence[Row], replies: Sequence[Reply]
) -> list[Answer]:
    """As `answers`, where some rows may end inside an open thought and others not.

    Args:
        tokenizer: that rendered the rows.
        prompts: in the order of the replies.
        rows: of the prompts.
        replies: of one model.
    """
    made: list[Answer] = []
    for prompt, row, reply in zip(prompts, rows, replies, strict=True):
        opened = ends_in_thought(tokenizer.decode(list(row.ids)))
        made += answers([prompt], [reply], opened=opened)
    return made


def unanswered(answer: Answer) -> Verdict | None:
    """`looping` or `empty` where there is no answer to judge, else None.

    Looping: the turn did not end, and what was said last (a thought, if it was never closed) says
    the same words over and over up to its end; see `repeats`. Empty: no letter and no digit.
    """
    last = answer.text if answer.closed else answer.thinking or ""
    if not answer.ended and repeats(last):
        return Verdict.looping
    if not any(character.isalnum() for character in answer.text):
        return Verdict.empty
    return None


def repeats(text: str) -> bool:
    """Whether a text ends in a sequence of words said three times or more, eight words in all.

    The last time may be cut off. Case, marks and digits make no difference, so that a numbered list
    of the same line is found too.
    """
    said = [word.casefold() for word in _WORD.findall(text)]
    for period in range(1, len(said) // _LEAST_REPEATS + 1):
        run = period
        while run < len(said) and said[-run - 1] == said[period - run - 1]:
            run += 1
        if run >= max(_LEAST_REPEATS * period, _LEAST_REPEATED):
            return True
    return False
