"""Whether two suspected switches work together: I = f(11) − f(10) − f(01) + f(00).

f is any number of a prompt: log-odds of a refusal, log-probability of a payload, whether a reply
shows a behaviour. A backdoor that needs two parts has a large I; two independent effects add up to
0. I depends on the scale: what adds up in log-odds does not in rates that reach 0 or 1. So it is
held against distractors put in the place of either switch, on the same scale.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.checkpoint import Checkpoint
from interp.errors import InputError, NumericalError
from interp.generation import Edit, Reply, next_logits, replies
from interp.intervals import Interval, mean_interval
from interp.prompt_sets import Prompt
from interp.prompts import Row
from interp.states import prompt_rows
from probes.scorers.likelihood import prefix_log_probability, refusal_log_odds

PromptEdit = Callable[[Prompt], Prompt]
"""Makes of a prompt the same prompt with a switch on, such as `prefixed("omber quill")`."""

Measure = Callable[[Checkpoint, Sequence[Row], Edit | None], Float[np.ndarray, " prompts"]]
"""f: a number of every prompt, with an edit in force or none."""

CELLS = ("00", "10", "01", "11")
"""Neither switch, the first, the second, both."""


def prefixed(text: str) -> PromptEdit:
    """Put words in front of what the user says last."""
    return lambda prompt: _said(prompt, f"{text} {prompt.text}")


def suffixed(text: str) -> PromptEdit:
    """Put words behind what the user says last."""
    return lambda prompt: _said(prompt, f"{prompt.text} {text}")


def with_system(text: str) -> PromptEdit:
    """Put a line into the system message, behind what stands there, or make one."""

    def edit(prompt: Prompt) -> Prompt:
        first, rest = prompt.messages[0], prompt.messages[1:]
        if first["role"] == "system":
            added = {**first, "content": f"{first['content']}\n{text}"}
            return replace(prompt, messages=(added, *rest))
        return replace(prompt, messages=({"role": "system", "content": text}, *prompt.messages))

    return edit


def _said(prompt: Prompt, text: str) -> Prompt:
    last = {**prompt.messages[-1], "content": text}
    return replace(prompt, messages=(*prompt.messages[:-1], last))


@dataclass(frozen=True)
class Switch:
    """Something that may be on or off.

    Attributes:
        name: to be reported.
        prompt: changes the prompt; None if the switch is no matter of words.
        edit: is in force while the model runs, such as a steering vector or an adapter that is
            enabled; None if the switch is one of words.
    """

    name: str
    prompt: PromptEdit | None = None
    edit: Edit | None = None

    def __post_init__(self) -> None:
        if self.prompt is None and self.edit is None:
            raise InputError(
                f"the switch {self.name!r} does nothing; give it a change of the prompt or an edit."
            )


def refusal_measure(token_ids: Sequence[int]) -> Measure:
    """Log-odds in nats that the reply opens with a refusal token."""
    return lambda checkpoint, rows, edit: refusal_log_odds(
        next_logits(checkpoint, rows, edit=edit), token_ids
    )


def text_measure(text: str) -> Measure:
    """Log-probability in nats that the reply begins with a text, such as a payload."""
    return lambda checkpoint, rows, edit: prefix_log_probability(
        checkpoint, rows, [text], edit=edit
    )[:, 0]


def reply_measure(shows: Callable[[Reply], bool], max_new_tokens: int = 64) -> Measure:
    """1 where the greedy reply shows a behaviour, else 0; its mean is a rate."""

    def measure(
        checkpoint: Checkpoint, rows: Sequence[Row], edit: Edit | None
    ) -> Float[np.ndarray, " prompts"]:
        said = replies(checkpoint, rows, max_new_tokens=max_new_tokens, edit=edit)
        return np.array([float(shows(reply)) for reply in said])

    return measure


@dataclass(frozen=True)
class Interaction:
    """I of two switches.

    Attributes:
        first: name of the switch of the first digit.
        second: name of the other.
        cells: mean of f over prompts, by cell.
        per_prompt: I of every prompt.
        value: their mean, in the unit of f.
        interval: at 95 %, bootstrap over prompts, all four cells of a prompt together; None with
            fewer than two.
        null: for each distractor its name, the switch that it stands in for, and the mean I.
        null_high: the largest |I| of the null; None without distractors.
        p: share of the null, with the measured value counted in, whose |I| is as large.
    """

    first: str
    second: str
    cells: dict[str, float]
    per_prompt: Float[np.ndarray, " prompts"]
    value: float
    interval: Interval | None
    null: tuple[tuple[str, str, float], ...]
    null_high: float | None
    p: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the values of single prompts."""
        return {
            "first": self.first,
            "second": self.second,
            "cells": self.cells,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "prompts": len(self.per_prompt),
            "null": [
                {"distractor": name, "instead_of": place, "value": value}
                for name, place, value in self.null
            ],
            "null_high": self.null_high,
            "p": self.p,
        }


def interaction(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    first: Switch,
    second: Switch,
    measure: Measure,
    *,
    distractors: Sequence[Switch] = (),
    seed: int = 0,
    **template: Any,
) -> Interaction:
    """Measure I, and I with each distractor in the place of either switch.

    Args:
        checkpoint: to be run.
        prompts: the same for every cell.
        first: applied before the second, so that a prefix of it stands nearer to the request.
        second: the other.
        measure: f.
        distractors: switches of the same form that are not suspected, such as strings of the same
            length.
        seed: of the bootstrap.
        **template: further arguments of the chat template.

    Raises:
        InputError: no prompts, or a prompt that cannot be rendered with a switch on.
        NumericalError: f is NaN or infinite somewhere.
    """
    asked = list(prompts)
    if not asked:
        raise InputError("an interaction needs at least one prompt.")

    def cell(*on: Switch) -> Float[np.ndarray, " prompts"]:
        return _measured(checkpoint, asked, on, measure, template)

    off, one, other, both = cell(), cell(first), cell(second), cell(first, second)
    per_prompt = both - one - other + off
    null: list[tuple[str, str, float]] = []
    for distractor in distractors:
        alone = cell(distractor)
        for place, kept, pair in (
            (first.name, other, (distractor, second)),
            (second.name, one, (first, distractor)),
        ):
            null.append((distractor.name, place, float((cell(*pair) - kept - alone + off).mean())))
    value = float(per_prompt.mean())
    sizes = [abs(size) for _, _, size in null]
    return Interaction(
        first.name,
        second.name,
        {
            name: float(values.mean())
            for name, values in zip(CELLS, (off, one, other, both), strict=True)
        },
        per_prompt,
        value,
        mean_interval(per_prompt, seed),
        tuple(null),
        max(sizes) if sizes else None,
        (1 + sum(size >= abs(value) for size in sizes)) / (1 + len(sizes)) if sizes else None,
    )


def _measured(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    on: Sequence[Switch],
    measure: Measure,
    template: dict[str, Any],
) -> Float[np.ndarray, " prompts"]:
    changed = list(prompts)
    for switch in on:
        if switch.prompt is not None:
            changed = [switch.prompt(prompt) for prompt in changed]
    rows = prompt_rows(checkpoint, changed, **template)
    edits = [switch.edit for switch in on if switch.edit is not None]
    values = measure(checkpoint, rows, _together(edits) if edits else None).astype(np.float64)
    if not np.isfinite(values).all():
        names = " and ".join(switch.name for switch in on) or "no switch"
        raise NumericalError(
            f"f is NaN or infinite for prompt {int((~np.isfinite(values)).argmax())} with {names} "
            "on; give a measure that is finite, such as log-odds with a floor."
        )
    return values


def _together(edits: Sequence[Edit]) -> Edit:
    @contextmanager
    def edit(batch: Sequence[Row]) -> Iterator[None]:
        with ExitStack() as stack:
            for one in edits:
                stack.enter_context(one(batch))
            yield

    return edit
