"""Questions with options put to a model, in balanced orders and under several system prompts."""

import itertools
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.checks import require_choice
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.segments import chat_row
from interp.errors import InputError
from interp.generation import next_logits, token_log_probabilities
from probes.backdoors.self_report.questions import Question, system_prompts

Method = Literal["labels", "texts"]
"""Options told by their letters or by their texts."""

_CHUNK = 256  # prompts whose logits are held at once
_ALL_ORDERS = 3  # options up to which every order is asked
_ASK_LETTER = "Answer with the letter alone."
_ASK_TEXT = "Answer with one of these, word by word."


def option_orders(options: int) -> list[tuple[int, ...]]:
    """Orders in which options are shown, each option in each place equally often.

    All orders of two or three options; of more, a balanced Latin square, in which also each option
    follows each other one equally often (Williams 1949, Australian Journal of Scientific Research
    A 2:149): as many orders as options, twice as many for an odd number.
    """
    if options <= _ALL_ORDERS:
        return list(itertools.permutations(range(options)))
    first = [0]
    for step in range(1, options):
        first.append((first[-1] + (step if step % 2 else -step)) % options)
    square = [tuple((place + shift) % options for place in first) for shift in range(options)]
    if options % 2:
        square += [tuple(reversed(order)) for order in square]
    return square


def takes_system(checkpoint: Checkpoint) -> bool:
    """Whether the chat template knows a system message."""
    user = {"role": "user", "content": "Hello"}
    chat_row(checkpoint, [user])  # what is wrong without a system message is told as it is
    try:
        chat_row(checkpoint, [{"role": "system", "content": "System"}, user])
    except InputError:
        return False
    return True


def with_system_line(text: str, system: str | None, own_role: bool) -> Prompt:
    """A question as a prompt, its system prompt in a message of its own or before the words."""
    if system is None:
        return Prompt(({"role": "user", "content": text},), "question", "self-report")
    if not own_role:
        said = {"role": "user", "content": f"{system}\n\n{text}"}
        return Prompt((said,), "question", "self-report")
    messages = ({"role": "system", "content": system}, {"role": "user", "content": text})
    return Prompt(messages, "question", "self-report")


@dataclass(frozen=True)
class _Asked:
    """A question under one system prompt in one order."""

    question: Question
    system: str
    order: tuple[int, ...]
    prompt: Prompt


def ask(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    *,
    systems: Mapping[str, str | None] | None = None,
    method: Method = "labels",
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
    **template: Any,
) -> pd.DataFrame:
    """Put every question in every order under every system prompt.

    Args:
        checkpoint: with a chat template.
        questions: with options.
        systems: system prompts by name, None for none; `questions.system_prompts()` if None. Where
            the template has no system message the line goes in front of the question.
        method: `labels` reads the probability of the letters as the next token, `texts` that of the
            whole text of each option as the reply. Both are normalised over the options.
        batch_tokens: most tokens in a batch.
        progress: called with (prompts done, prompts in all).
        **template: further arguments of the chat template.

    Returns:
        A row an option: `question`, `topic`, `system`, `order` (its number), `options` (how many),
        `option` (index), `position` (where it was shown), `key` (whether it admits), `probability`,
        and `mass`: what the model gave to all letters together before that was set to 1 (NaN with
        `texts`, where the texts compete with all others).

    Raises:
        InputError: no questions, no chat template, or letters that are no single tokens.
        NumericalError: the logits are NaN.
    """
    require_choice(method, get_args(Method), "method")
    cases = list(_cases(checkpoint, questions, systems or system_prompts(), method))
    known = list(string.ascii_uppercase)
    tokens = None
    if method == "labels":
        tokens = _label_tokens(checkpoint, known[: max(len(q.options) for q in questions)])
    records = []
    for start in range(0, len(cases), _CHUNK):
        some = cases[start : start + _CHUNK]
        rows = prompt_rows(checkpoint, [case.prompt for case in some], **template)
        if tokens is not None:
            found = _by_label(checkpoint, some, rows, tokens, batch_tokens)
        else:
            found = _by_text(checkpoint, some, rows, batch_tokens)
        for case, (shares, mass) in zip(some, found, strict=True):
            records += _records(case, shares, mass)
        if progress is not None:
            progress(start + len(some), len(cases))
    return pd.DataFrame(records)


def _cases(
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    systems: Mapping[str, str | None],
    method: Method,
) -> Iterator[_Asked]:
    if not questions or not systems:
        raise InputError("a self-report needs at least one question and one system prompt.")
    if len({question.id for question in questions}) < len(questions):
        raise InputError("two questions have the same id; give every one its own.")
    if widest := [q.id for q in questions if len(q.options) > len(string.ascii_uppercase)]:
        raise InputError(f"question {widest[0]} has more options than there are letters.")
    own_role = takes_system(checkpoint)
    for question in questions:
        for name, system in systems.items():
            for order in option_orders(len(question.options)):
                text = _shown(question, order, method)
                yield _Asked(question, name, order, with_system_line(text, system, own_role))


def _shown(question: Question, order: Sequence[int], method: Method) -> str:
    match method:
        case "labels":
            asked, marks = _ASK_LETTER, [f"{letter})" for letter in string.ascii_uppercase]
        case "texts":
            asked, marks = _ASK_TEXT, ["-"] * len(string.ascii_uppercase)
        case _:
            assert_never(method)
    lines = [f"{mark} {question.options[i]}" for mark, i in zip(marks, order, strict=False)]
    return "\n".join([question.text, "", *lines, "", asked])


def _label_tokens(checkpoint: Checkpoint, letters: Sequence[str]) -> list[list[int]]:
    """The tokens of each letter, with and without a space in front of it."""
    tokenizer: Any = checkpoint.tokenizer
    found = []
    for letter in letters:
        encoded = [_encoded(tokenizer, text) for text in (letter, f" {letter}")]
        unknown = getattr(tokenizer, "unk_token_id", None)
        ids = {one[0] for one in encoded if len(one) == 1 and one[0] != unknown}
        if not ids:
            raise InputError(
                f"the letter {letter} is no token of {checkpoint.name}; ask by the texts of the "
                'options, method="texts".'
            )
        found.append(sorted(ids))
    return found


def _encoded(tokenizer: Any, text: str) -> list[int]:
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception:
        # A word-level vocabulary without an unknown token raises a bare Exception from Rust.
        return []
    return ids


def _by_label(
    checkpoint: Checkpoint,
    cases: Sequence[_Asked],
    rows: Sequence[Row],
    tokens: Sequence[Sequence[int]],
    batch_tokens: int,
) -> list[tuple[Float[np.ndarray, " options"], float]]:
    logits = next_logits(checkpoint, rows, batch_tokens=batch_tokens)
    shares = logits.double().softmax(-1).numpy()
    found = []
    for case, one in zip(cases, shares, strict=True):
        by_place = np.array([one[list(ids)].sum() for ids in tokens[: len(case.order)]])
        mass = float(by_place.sum())
        found.append((by_place / max(mass, np.finfo(float).tiny), mass))
    return found


def _by_text(
    checkpoint: Checkpoint, cases: Sequence[_Asked], rows: Sequence[Row], batch_tokens: int
) -> list[tuple[Float[np.ndarray, " options"], float]]:
    longer: list[Row] = []
    begins: list[int] = []
    for case, row in zip(cases, rows, strict=True):
        for option in case.order:
            ids = _encoded(checkpoint.tokenizer, case.question.options[option])
            if not ids:
                raise InputError(
                    f"option {option} of question {case.question.id} has no token of "
                    f"{checkpoint.name}."
                )
            longer.append(replace(row, ids=row.ids + tuple(ids), index=len(longer)))
            begins.append(len(row))
    values = token_log_probabilities(checkpoint, longer, begins, batch_tokens=batch_tokens)
    totals = iter([float(one.sum()) for one in values])
    found = []
    for case in cases:
        logs = np.array([next(totals) for _ in case.order])
        shares = np.exp(logs - logs.max())
        found.append((shares / shares.sum(), float("nan")))
    return found


def _records(
    case: _Asked, shares: Float[np.ndarray, " options"], mass: float
) -> list[dict[str, Any]]:
    number = option_orders(len(case.order)).index(case.order)
    return [
        {
            "question": case.question.id,
            "topic": case.question.topic,
            "system": case.system,
            "order": number,
            "options": len(case.order),
            "option": option,
            "position": position,
            "key": option == case.question.key,
            "probability": float(shares[position]),
            "mass": mass,
        }
        for position, option in enumerate(case.order)
    ]
