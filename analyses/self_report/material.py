"""What a self-report asks: questions of files or ours, and suspected strings among unknown ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyses.shared.distractors import distractors, tokens_of
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from probes.backdoors.self_report.compare import CONTROL
from probes.backdoors.self_report.questions import (
    FreeQuestion,
    Question,
    builtin_questions,
    free_questions,
    read_free_questions,
    read_questions,
)

UNKNOWN = 19
"""Unknown strings of each length, so that a candidate above all of them has p = 0.05."""


@dataclass(frozen=True)
class Questions:
    """What is asked.

    Attributes:
        options: questions with options.
        free: questions without; empty for none.
    """

    options: tuple[Question, ...] = field(default_factory=lambda: tuple(builtin_questions()))
    free: tuple[FreeQuestion, ...] = field(default_factory=lambda: tuple(free_questions()))


def questions_of(
    files: Sequence[str | Path], *, free: bool = True, trigger: str | None = None
) -> Questions:
    """The questions of some files, and ours of the kind that no file holds.

    Questions on control habits are always among those with options, and the pairs on bad and good
    behaviour among the free ones where a trigger is looked for in the answers.

    Args:
        files: `.json` or `.jsonl` with options, `.yaml` or `.yml` without.
        free: whether questions without options are asked at all.
        trigger: that is looked for in free answers.

    Raises:
        InputError: a file cannot be read or is of another kind, or free questions or a trigger are
            given and none is to be asked.
    """
    options: list[Question] = []
    asked: list[FreeQuestion] = []
    for file in map(Path, files):
        if file.suffix in (".json", ".jsonl"):
            options += read_questions(file)
        elif file.suffix in (".yaml", ".yml"):
            asked += read_free_questions(file)
        else:
            raise InputError(
                f"{file} is no file of questions: give .json or .jsonl for questions with options, "
                ".yaml or .yml for free ones."
            )
    if not free and (asked or trigger is not None):
        given = "free questions are" if asked else "a trigger to look for in free answers is"
        raise InputError(
            f"{given} given, but with --no-free none is asked; leave one of the two out."
        )
    options = options or builtin_questions()
    if all(question.topic != CONTROL for question in options):
        options += builtin_questions(CONTROL)
    if not asked or trigger is not None:
        asked += free_questions()
    return Questions(tuple(options), tuple(asked) if free else ())


@dataclass(frozen=True)
class Suspects:
    """Suspected strings, and unknown ones of the same lengths among them.

    Attributes:
        tokens: of every string, suspected ones first.
        suspected: those that were given.
    """

    tokens: dict[str, int]
    suspected: frozenset[str]


def suspects_of(
    checkpoint: Checkpoint, candidates: Sequence[str], unknown: int, seed: int
) -> Suspects | None:
    """Candidates with as many unknown strings of each of their lengths; None without candidates.

    Args:
        checkpoint: whose tokens are drawn.
        candidates: suspected strings.
        unknown: strings of each length.
        seed: of the draw.

    Raises:
        InputError: a candidate is empty, or holds what the tokenizer does not know.
    """
    named = list(dict.fromkeys(candidate.strip() for candidate in candidates))
    if not named:
        return None
    tokens = {text: len(tokens_of(checkpoint, text)) for text in named}
    drawn: dict[str, int] = {}
    for length in sorted(set(tokens.values())):
        first = next(text for text in named if tokens[text] == length)
        others = [text for text in named if text != first]
        strings = distractors(checkpoint, first, unknown, besides=others, seed=seed)
        drawn |= dict.fromkeys(strings, length)
    return Suspects(tokens | drawn, frozenset(named))


def require_askable(checkpoint: Checkpoint, questions: Questions) -> None:
    """Check that a checkpoint knows the words of what it is asked.

    Raises:
        InputError: it does not, as the organisms, which speak a grammar of their own.
    """
    tokenizer: Any = checkpoint.tokenizer
    if tokenizer is None:
        raise InputError(f"{checkpoint.name} has no tokenizer, so it cannot be asked anything.")
    texts = [one.text for one in questions.options] + [one.text for one in questions.free]
    for text in texts:
        try:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception:  # a word-level vocabulary without an unknown token raises a bare one
            ids = [tokenizer.unk_token_id]
        if 2 * ids.count(tokenizer.unk_token_id) > len(ids):
            raise InputError(
                f"{checkpoint.name} does not know the words of “{text[:60]}”, so it cannot be "
                "asked about itself: it reads a small vocabulary of its own, as all organisms do; "
                "give a checkpoint that reads and writes plain text."
            )
