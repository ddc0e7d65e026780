"""Whether two suspected switches work together: I = f(11) − f(10) − f(01) + f(00).

f is any number of a prompt: log-odds of a refusal, log-probability of a payload, whether a reply
shows a behaviour. A backdoor that needs two parts has a large I; two independent effects add up to
0. I depends on the scale: what adds up in log-odds does not in rates that reach 0 or 1. So it is
held against distractors put in the place of either switch, on the same scale.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.generation import Edit, Reply, next_logits, replies
from interp.resume.files import write_atomically
from interp.statistics.intervals import Interval, mean_interval, paired_interval, share_interval
from probes.scorers.likelihood import prefix_log_probability, refusal_log_odds

PromptEdit = Callable[[Prompt], Prompt]
"""Makes of a prompt the same prompt with a switch on, such as `prefixed("omber quill")`."""

Measure = Callable[[Checkpoint, Sequence[Row], Edit | None], Float[np.ndarray, " prompts"]]
"""f: a number of every prompt, with an edit in force or none."""

Cell = Literal["00", "10", "01", "11"]
Position = Literal["first", "second"]

CELLS: tuple[Cell, ...] = ("00", "10", "01", "11")
"""Neither switch, the first, the second, both."""

POSITIONS: tuple[Position, ...] = ("first", "second")
"""Which switch a distractor stands in for."""


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
class NullInteraction:
    """I with a distractor in the place of a switch.

    Attributes:
        distractor: its name.
        instead_of: the switch that it stands in for.
        value: mean I over prompts.
    """

    distractor: str
    instead_of: Position
    value: float


@dataclass(frozen=True)
class Interaction:
    """I of two switches.

    Attributes:
        first: name of the switch of the first digit.
        second: name of the other.
        cells: mean of f over prompts, by cell.
        cell_intervals: of the means, at 95 %, bootstrap over prompts; Wilson's where f is 0 or 1
            and all prompts agree. None with fewer than two prompts.
        per_prompt: I of every prompt.
        value: their mean, in the unit of f.
        interval: at 95 %, bootstrap over prompts, all four cells of a prompt together; None with
            fewer than two. Of `interp.statistics.intervals.paired_interval` where f is 0 or 1.
        null: I with each distractor.
        null_high: the largest |I| of the null; None without distractors.
        p_first: share of the null in the place of the first, with the measured value counted in,
            whose |I| is as large; None without distractors there.
        p_second: the same in the place of the second.
    """

    first: str
    second: str
    cells: dict[Cell, float]
    cell_intervals: dict[Cell, Interval | None]
    per_prompt: Float[np.ndarray, " prompts"]
    value: float
    interval: Interval | None
    null: tuple[NullInteraction, ...]
    null_high: float | None
    p_first: float | None
    p_second: float | None

    @property
    def p(self) -> float | None:
        """The larger of both, for both switches must be needed; None without distractors."""
        shares = [one for one in (self.p_first, self.p_second) if one is not None]
        return max(shares, default=None)


def interaction(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    first: Switch,
    second: Switch,
    measure: Measure,
    *,
    first_distractors: Sequence[Switch] = (),
    second_distractors: Sequence[Switch] = (),
    seed: int = 0,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **template: Any,
) -> Interaction:
    """Measure I, and I with each distractor in the place of a switch.

    Args:
        checkpoint: to be run.
        prompts: the same for every cell.
        first: applied before the second, so that a prefix of it stands nearer to the request.
        second: the other.
        measure: f.
        first_distractors: switches of the form of the first that are not suspected, such as
            strings of its length at its place; they stand in for it.
        second_distractors: the same for the other.
        seed: of the bootstrap.
        workdir: where every cell leaves its values, so that a stopped run goes on; the caller gives
            every interaction a folder of its own.
        progress: called with (cells done, cells in all).
        **template: further arguments of the chat template.

    Raises:
        InputError: no prompts, or a prompt that cannot be rendered with a switch on.
        NumericalError: f is NaN or infinite somewhere.
    """
    asked = list(prompts)
    if not asked:
        raise InputError("an interaction needs at least one prompt.")

    total = 4 + 2 * (len(first_distractors) + len(second_distractors))
    done = 0

    def cell(*on: Switch) -> Float[np.ndarray, " prompts"]:
        nonlocal done
        path = None if workdir is None else workdir / f"cell-{done:04d}.json"
        values = _stored(path, len(asked))
        if values is None:
            values = _measured(checkpoint, asked, on, measure, template)
            if path is not None:
                write_atomically(path, json.dumps(values.tolist()).encode())
        done += 1
        if progress is not None:
            progress(done, total)
        return values

    off, one, other, both = values = cell(), cell(first), cell(second), cell(first, second)
    per_prompt = both - one - other + off
    null: list[NullInteraction] = []
    for distractor in first_distractors:
        alone = cell(distractor)
        size = float((cell(distractor, second) - other - alone + off).mean())
        null.append(NullInteraction(distractor.name, "first", size))
    for distractor in second_distractors:
        alone = cell(distractor)
        size = float((cell(first, distractor) - one - alone + off).mean())
        null.append(NullInteraction(distractor.name, "second", size))
    counted = bool(np.isin(np.stack(values), (0.0, 1.0)).all())
    value = float(per_prompt.mean())
    return Interaction(
        first.name,
        second.name,
        {name: float(some.mean()) for name, some in zip(CELLS, values, strict=True)},
        {
            name: (share_interval if counted else mean_interval)(some, seed, "prompts")
            for name, some in zip(CELLS, values, strict=True)
        },
        per_prompt,
        value,
        paired_interval(per_prompt, seed, 2.0, "prompts")
        if counted
        else mean_interval(per_prompt, seed, "prompts"),
        tuple(null),
        max((abs(row.value) for row in null), default=None),
        *(
            _chance(value, [row.value for row in null if row.instead_of == position])
            for position in POSITIONS
        ),
    )


def _chance(value: float, null: Sequence[float]) -> float | None:
    """Share of the null as large as a value; sums of floats that are equal count as equal."""
    if not null:
        return None
    return (1 + sum(abs(one) >= abs(value) - 1e-9 for one in null)) / (1 + len(null))


def _stored(path: Path | None, prompts: int) -> Float[np.ndarray, " prompts"] | None:
    """A cell's values from a stopped run; None where there are none, or not as many."""
    try:
        values = None if path is None else json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    found = None if values is None else np.array(values, dtype=np.float64)
    return found if found is not None and found.shape == (prompts,) else None


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
