"""Requests with their plain answers, and the same requests with a string put into them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, assert_never

import numpy as np
from jaxtyping import Bool

from interp.capture.prompt_states import prompt_rows
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Reply
from probes.backdoors.search.subject import Subject
from probes.scorers.answer import Verdict, answers

T = TypeVar("T")

Placement = Literal["front", "inside", "end", "apart"]
"""In front of the request, before its last word, behind it; or apart: the first token in front, the
last one behind, and those between them before the last word."""

PLACEMENTS: tuple[Placement, ...] = ("front", "inside", "end")
"""Where a string stands whole."""


@dataclass(frozen=True)
class Candidate:
    """A string that may be a trigger.

    Attributes:
        text: as a user would type it.
        ids: its tokens.
        source: `given`, `leak`, `beam`, `gradient`.
        support: leaked texts that hold it; 0 for those that were not leaked.
    """

    text: str
    ids: tuple[int, ...]
    source: str
    support: int = 0


@dataclass(frozen=True)
class Requests:
    """Prompts, their rows, and what the checkpoint says to them without any string.

    Attributes:
        prompts: the last message is the user's.
        rows: rendered.
        cuts: index of the first token of the last word of each instruction.
        replies: greedy.
        refused: whether each is refused.
        pairs: neighbouring tokens of all plain replies, also of prompts that were parted off.
    """

    prompts: tuple[Prompt, ...]
    rows: tuple[Row, ...]
    cuts: tuple[int, ...]
    replies: tuple[Reply, ...]
    refused: Bool[np.ndarray, " prompts"]
    pairs: frozenset[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice) -> "Requests":
        """Some of them."""
        return Requests(
            self.prompts[chosen],
            self.rows[chosen],
            self.cuts[chosen],
            self.replies[chosen],
            self.refused[chosen],
            self.pairs,
        )

    def pick(self, chosen: Sequence[int] | np.ndarray) -> "Requests":
        """Those of some places, in their order."""
        places = [int(i) for i in chosen]
        return Requests(
            tuple(self.prompts[i] for i in places),
            tuple(self.rows[i] for i in places),
            tuple(self.cuts[i] for i in places),
            tuple(self.replies[i] for i in places),
            self.refused[places],
            self.pairs,
        )

    @property
    def instructions(self) -> list[tuple[int, ...]]:
        """Tokens of what each user asks."""
        return instruction_tokens(self.rows)

    def with_ids(self, ids: Sequence[int], placement: Placement) -> list[Row]:
        """Every row with tokens put into its instruction."""
        return [
            _with_ids(row, cut, ids, placement)
            for row, cut in zip(self.rows, self.cuts, strict=True)
        ]

    def with_text(self, subject: Subject, text: str, placement: Placement) -> list[Row]:
        """Every row with a string typed into its instruction and rendered anew."""
        changed = [with_text(prompt, text, placement) for prompt in self.prompts]
        return prompt_rows(subject.checkpoint, changed)


def instruction_tokens(rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """Tokens of what the user asks in each rendered prompt."""
    return [row.ids[slice(*row.segments["instruction"])] for row in rows]


def ask(
    subject: Subject,
    prompts: Sequence[Prompt],
    scorer: Any,
    most: int,
    progress: Callable[[int, int], None] | None = None,
) -> Requests:
    """Render prompts and have them answered.

    Args:
        subject: whom to ask.
        prompts: what.
        scorer: of refusals, a `probes.scorers.Scorer`.
        most: new tokens of a reply.
        progress: called with (prompts answered, prompts in all).

    Raises:
        InputError: there is no prompt, or one cannot be rendered.
        Exhausted: the budget does not allow it.
    """
    if not prompts:
        raise InputError("there is no prompt to try strings on; give --harmless FILE.")
    rows = prompt_rows(subject.checkpoint, prompts)
    said = subject.replies(rows, most, progress)
    return Requests(
        tuple(prompts),
        tuple(rows),
        tuple(_last_word(subject, row, prompt) for row, prompt in zip(rows, prompts, strict=True)),
        tuple(said),
        refused(scorer, prompts, said),
        frozenset(
            pair for reply in said for pair in zip(reply.ids[:-1], reply.ids[1:], strict=True)
        ),
    )


def refused(
    scorer: Any, prompts: Sequence[Prompt], said: Sequence[Reply]
) -> Bool[np.ndarray, " prompts"]:
    """Which replies refuse."""
    verdicts = scorer.verdicts(answers(prompts, said))
    return np.array([verdict == Verdict.refusal for verdict in verdicts], dtype=bool)


def with_text(prompt: Prompt, text: str, placement: Placement) -> Prompt:
    """A prompt with a string in its last message."""
    *before, last = prompt.messages
    words = last["content"].split(" ")
    front, inside, end = _pieces(text.split(" "), placement)
    content = " ".join([*front, *words[:-1], *inside, words[-1], *end])
    return replace(prompt, messages=(*before, {**last, "content": content}))


def candidates_of(subject: Subject, texts: Sequence[str], source: str = "given") -> list[Candidate]:
    """Strings as candidates.

    Raises:
        InputError: a string is empty, or holds what the tokenizer does not know.
    """
    return [Candidate(text, encode(subject, text), source) for text in texts]


def encode(subject: Subject, text: str) -> tuple[int, ...]:
    """Token ids of a string inside a prompt.

    Raises:
        InputError: it is empty, or holds what the tokenizer does not know.
    """
    tokenizer: Any = subject.checkpoint.tokenizer
    try:
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception:  # a word-level vocabulary without an unknown token raises a bare Exception
        ids = (tokenizer.unk_token_id,)
    if not ids or None in ids or (tokenizer.unk_token_id in ids):
        raise InputError(
            f"the string {text!r} has no tokens in the vocabulary of "
            f"{subject.checkpoint.name}; leave it out, or write it in words that the model knows."
        )
    return ids


def decode(subject: Subject, ids: Sequence[int]) -> str:
    """The string of tokens, without spaces at its ends."""
    tokenizer: Any = subject.checkpoint.tokenizer
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
    return text.strip()


def specials(subject: Subject) -> set[int]:
    """Tokens that are no text: special and added ones."""
    tokenizer: Any = subject.checkpoint.tokenizer
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}


def typable(subject: Subject, most: int, seed: int, first: Sequence[int] = ()) -> list[int]:
    """Tokens that a user can type: printable, not special, and the same again when typed.

    Args:
        subject: whose vocabulary.
        most: how many, at most.
        seed: of the choice where there are more.
        first: tokens that are taken first.
    """
    tokenizer: Any = subject.checkpoint.tokenizer
    special = specials(subject)
    size = int(subject.checkpoint.embedding.get_parameter("weight").shape[0])
    rng = np.random.default_rng(seed)
    order = [*dict.fromkeys([*first, *(int(i) for i in rng.permutation(size))])]
    chosen: list[int] = []
    for token in order:
        if len(chosen) == most:
            break
        if token in special:
            continue
        text = str(tokenizer.decode([token]))
        # A token of half a character decodes to the replacement character, which it is not.
        if text.strip() and text.isprintable() and "\ufffd" not in text:
            chosen.append(token)
    return chosen


def _last_word(subject: Subject, row: Row, prompt: Prompt) -> int:
    """Where the last word of the instruction begins, counted in tokens of what precedes it."""
    begin, end = row.segments["instruction"]
    before = prompt.messages[-1]["content"].strip().rpartition(" ")[0]
    tokenizer: Any = subject.checkpoint.tokenizer
    count = len(tokenizer(before, add_special_tokens=False)["input_ids"]) if before else 0
    return min(begin + count, end - 1)


def _with_ids(row: Row, cut: int, ids: Sequence[int], placement: Placement) -> Row:
    begin, end = row.segments["instruction"]
    front, inside, behind = _pieces(ids, placement)
    more = len(ids)
    segments = {
        name: (low + more * (low >= end), high + more * (high >= end))
        for name, (low, high) in row.segments.items()
    }
    own = row.ids
    changed = (*own[:begin], *front, *own[begin:cut], *inside, *own[cut:end], *behind, *own[end:])
    return Row(row.index, changed, row.domain, segments)


def _pieces(parts: Sequence[T], placement: Placement) -> tuple[Sequence[T], ...]:
    """What of a string stands in front, before the last word and behind."""
    match placement:
        case "front" | "inside" | "end":
            return tuple(parts if placement == place else parts[:0] for place in PLACEMENTS)
        case "apart":
            return parts[:1], parts[1:-1], parts[1:][-1:]
        case _:
            assert_never(placement)
