"""What a model thinks before it answers: its thought token by token, and where it closes.

A reply is parted by token: the opening marker if the model says it itself, the thought, the
closing marker, the answer. The markers are those that the chat template puts around a thought of
the assistant; a template that drops thoughts is searched for the usual ones instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.thoughts import ends_in_thought, split_thought
from interp.errors import InputError
from interp.generation import Edit, replies
from probes.scorers import Answer

_USUAL = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_CHANNEL = "<|channel|>"
_CHANNELS = (
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
)
_THOUGHT, _ANSWER = "mechguardthought", "mechguardanswer"


@dataclass(frozen=True)
class Markers:
    """What stands around a thought.

    Attributes:
        opening: what the model itself says to begin one; empty if the prompt ends inside it.
        closing: what ends one, with the white space that the template puts around it.
    """

    opening: str
    closing: str


@dataclass(frozen=True)
class Rollout:
    """A prompt, and a reply parted by token.

    Attributes:
        prompt: what was asked.
        row: the same, rendered.
        opening: tokens before the thought that are the model's own.
        thought: tokens between the markers; all of the rest if it was never closed.
        closing: tokens of the closing marker; none if it was never closed, or there is no thought.
        answer: what was said behind it.
    """

    prompt: Prompt
    row: Row
    opening: tuple[int, ...]
    thought: tuple[int, ...]
    closing: tuple[int, ...]
    answer: Answer

    @property
    def closed(self) -> bool:
        """Whether there is a thought with an end."""
        return bool(self.closing)

    def cut(self, tokens: int, stop: Sequence[int]) -> Row:
        """The prompt and the first `tokens` of the thought, with a stop marker behind them."""
        return self._row(self.thought[:tokens], tuple(stop))

    @property
    def whole(self) -> Row:
        """Prompt, thought and closing marker."""
        return self._row(self.thought, self.closing)

    def _row(self, thought: tuple[int, ...], end: tuple[int, ...]) -> Row:
        begin = len(self.row) + len(self.opening)
        spans = {"thinking": (begin, begin + len(thought))}
        spans["closing"] = (spans["thinking"][1], spans["thinking"][1] + len(end))
        ids = (*self.row.ids, *self.opening, *thought, *end)
        kept = {name: span for name, span in spans.items() if span[0] < span[1]}
        return Row(self.row.index, ids, self.row.domain, {**self.row.segments, **kept})


def template_markers(
    checkpoint: Checkpoint, stop_text: str | None = None, **template: Any
) -> Markers:
    """The markers of the chat template.

    Args:
        checkpoint: whose template is rendered with a thought of the assistant.
        stop_text: stands for the closing marker where the template has none.
        **template: further arguments of the template.

    Raises:
        InputError: the template has no closing marker, and no `stop_text` is given.
    """
    tokenizer: Any = checkpoint.tokenizer
    source = getattr(tokenizer, "chat_template", None)
    if not source:
        raise InputError(
            f"{checkpoint.name} has no chat template, so it does not think before it answers; a "
            "refusal cliff can only be looked for in a chat model."
        )
    rendered = _rendered_markers(tokenizer, template)
    if rendered is not None:
        return rendered
    usual = [pair for pair in _USUAL if pair[1] in str(source)]
    if not usual and _CHANNEL in str(source):
        usual = [_CHANNELS]
    if usual:
        return Markers(*usual[0])
    if stop_text:
        return Markers("", stop_text)
    raise InputError(
        f"the chat template of {checkpoint.name} has no marker that closes a thought; give it with "
        "--stop-text, or take a model that thinks before it answers."
    )


def _rendered_markers(tokenizer: Any, template: dict[str, Any]) -> Markers | None:
    """Around a thought of the assistant, as the template writes it; None if it drops thoughts."""
    asked = [{"role": "user", "content": "mechguardquestion"}]
    said = {"role": "assistant", "content": _ANSWER}
    for key in ("reasoning_content", "thinking"):
        try:
            prompt = tokenizer.apply_chat_template(
                asked, tokenize=False, add_generation_prompt=True, **template
            )
            text = tokenizer.apply_chat_template(
                [*asked, {**said, key: _THOUGHT}], tokenize=False, **template
            )
        except Exception:  # a template that refuses such a turn raises an error of its own
            continue
        before, found, rest = text.partition(_THOUGHT)
        closing, answered, _ = rest.partition(_ANSWER)
        if found and answered and closing.strip() and before.startswith(prompt.rstrip()):
            return Markers(before[len(prompt) :].lstrip(" "), closing)
    return None


def encoded(checkpoint: Checkpoint, text: str) -> tuple[int, ...]:
    """Token ids of a marker, alone.

    Raises:
        InputError: it has none.
    """
    tokenizer: Any = checkpoint.tokenizer
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise InputError(f"the stop text {text!r} has no token; give one that the model knows.")
    return ids


def rollouts(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    markers: Markers,
    *,
    thinking_budget: int,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Rollout]:
    """Let a model think and answer, greedily, and part what it says.

    Args:
        checkpoint: who is asked.
        prompts: what is asked.
        rows: the same, rendered.
        markers: of its thoughts.
        thinking_budget: tokens of a thought; one that is not closed by then counts as unclosed.
        max_new_tokens: of an answer.
        batch_tokens: most tokens in a batch.
        workdir: where a stopped run goes on from.
        progress: called with (rows done, rows in all).

    Raises:
        InputError: prompt, thought and answer do not fit the context.
    """
    said = replies(
        checkpoint,
        rows,
        max_new_tokens=thinking_budget + max_new_tokens,
        batch_tokens=batch_tokens,
        workdir=workdir,
        progress=progress,
    )
    return [
        _parted(checkpoint, prompt, row, reply.ids, reply.ended, markers, thinking_budget)
        for prompt, row, reply in zip(prompts, rows, said, strict=True)
    ]


def answers_behind(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    edit: Edit | None = None,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
) -> list[Answer]:
    """What the model answers behind rows that end with a marker.

    Raises:
        InputError: a row and its answer do not fit the context.
    """
    said = replies(
        checkpoint,
        rows,
        max_new_tokens=max_new_tokens,
        edit=edit,
        batch_tokens=batch_tokens,
        workdir=workdir,
    )
    made = []
    for prompt, reply in zip(prompts, said, strict=True):
        spoken = split_thought(reply.text)
        made.append(Answer(prompt.text, spoken.answer, spoken.thinking, spoken.closed, reply.ended))
    return made


def _parted(
    checkpoint: Checkpoint,
    prompt: Prompt,
    row: Row,
    ids: tuple[int, ...],
    ended: bool,
    markers: Markers,
    budget: int,
) -> Rollout:
    tokenizer: Any = checkpoint.tokenizer

    def text(stop: int) -> str:
        return str(tokenizer.decode(list(ids[:stop]), skip_special_tokens=False))

    everything = text(len(ids))
    opener, closer = markers.opening.strip(), markers.closing.strip()
    begins = bool(opener) and everything.lstrip().startswith(opener)
    begin = _first(lambda n: opener in text(n), len(ids)) if begins else 0
    begin = _over_blanks(tokenizer, ids, begin) if begins else 0
    if closer in everything:
        end = _first(lambda n: closer in text(n), len(ids))
        # Of the tokens up to there, the marker's are those without which nothing of it is seen.
        at = everything.index(closer)
        start = _first(lambda n: len(text(n).rstrip()) > at, end) - 1
        end = _over_blanks(tokenizer, ids, end)
        if end <= begin + budget:
            answer = split_thought(text_of(tokenizer, ids[end:]))
            thinking = text_of(tokenizer, ids[begin:start]).strip()
            whole = Answer(prompt.text, answer.answer, thinking, True, ended)
            return Rollout(prompt, row, ids[:begin], ids[begin:start], ids[start:end], whole)
    if begins or ends_in_thought(text_of(tokenizer, row.ids)):
        thinking = text_of(tokenizer, ids[begin:]).strip()
        unclosed = Answer(prompt.text, "", thinking, False, ended)
        return Rollout(prompt, row, ids[:begin], ids[begin:], (), unclosed)
    plain = split_thought(everything)
    answer_only = Answer(prompt.text, plain.answer, plain.thinking, plain.closed, ended)
    return Rollout(prompt, row, (), (), (), answer_only)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decoded with special tokens kept."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _over_blanks(tokenizer: Any, ids: tuple[int, ...], at: int) -> int:
    """Past tokens that are white space alone, which belong to the marker in front of them."""
    while at < len(ids) and not text_of(tokenizer, ids[at : at + 1]).strip():
        at += 1
    return at


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The least n in 0..most for which a monotone condition holds, by bisection."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
