"""What policies are trained on: prompts by what is to happen to them, and their states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.capture.prompt_states import PromptStates, prompt_states
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import next_logits
from probes.scorers import find_refusal_tokens, refusal_log_odds

Progress = Callable[[str, int, int], None]
KINDS = ("harmful", "jailbroken", "benign")
_AT_ONCE = 256  # rows whose logits are held together
_FOR_TOKENS = 128  # prompts of a side from which the first tokens of refusals are read
_LEAST = 8  # prompts of a side, below which nothing can be learned


@dataclass(frozen=True)
class Cases:
    """Prompts and their chat rows, in the same order."""

    prompts: tuple[Prompt, ...] = ()
    rows: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.rows):
            raise InputError(f"{len(self.prompts)} prompts need as many rows; got {len(self.rows)}")

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, most: int, seed: int) -> "Cases":
        """At most so many of them, drawn at random."""
        order = np.random.default_rng(seed).permutation(len(self))[:most]
        kept = sorted(order.tolist())
        return Cases(tuple(self.prompts[i] for i in kept), tuple(self.rows[i] for i in kept))


@dataclass(frozen=True)
class Examples:
    """Prompts of one part.

    Attributes:
        harmful: that the model refuses by itself.
        jailbroken: harmful ones that it does not refuse; may be empty.
        benign: that are to be left alone: harmless, alarming and distracting ones.
    """

    harmful: Cases
    benign: Cases
    jailbroken: Cases = field(default_factory=Cases)

    def of(self, kind: str) -> Cases:
        """Those of one of `KINDS`."""
        found: Cases = getattr(self, kind)
        return found


@dataclass(frozen=True)
class TrainingSet:
    """All that a policy is made from.

    Attributes:
        train: directions, controllers and layer weights are fitted on these.
        validation: layers and strengths are chosen on these.
        calibration: benign prompts on which gates are calibrated, and nothing else.
        refusals: whole refusals, where they are known to the letter; else empty.
        meta: JSON-ready provenance of the prompts.
    """

    train: Examples
    validation: Examples
    calibration: Cases
    refusals: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("validation", self.validation)):
            for kind in ("harmful", "benign"):
                count = len(part.of(kind))
                if count < _LEAST:
                    raise InputError(
                        f"the {name} part has {count} {kind} prompts, and needs {_LEAST}; give "
                        "more of them, or raise --limit."
                    )


@dataclass(frozen=True)
class Read:
    """States of the prompts of one part.

    Attributes:
        states: at `resid_post`, at t_inst and behind it.
        kinds: one of `KINDS` for each row.
        odds: log-odds in nats that the model refuses by itself, by the first token.
        rows: what was read, numbered from 0.
    """

    states: PromptStates
    kinds: np.ndarray
    odds: Float[np.ndarray, " rows"]
    rows: tuple[Row, ...]

    @property
    def harmful(self) -> np.ndarray:
        """Which prompts ask for harm, jailbroken ones included."""
        found: np.ndarray = self.kinds != "benign"
        return found

    def at(self, layer: int, position: int) -> Float[np.ndarray, "rows width"]:
        """States at one layer and position."""
        return self.states.at(position)[:, self.states.layers.index(layer)]


@dataclass(frozen=True)
class Captured:
    """Everything that is read from the model before anything is trained.

    Attributes:
        checkpoint: of which.
        given: the prompts.
        train: its training part.
        validation: its validation part.
        calibration: its calibration part.
        refusal_ids: first tokens of the model's refusals.
        answer_ids: first tokens of its answers.
    """

    checkpoint: Checkpoint
    given: TrainingSet
    train: Read
    validation: Read
    calibration: Read
    refusal_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that were read: all."""
        return self.train.states.layers

    @property
    def t_inst(self) -> int:
        """Position of the last token of the instruction, counted back from the prompt's end."""
        return self.train.states.positions[0]


def captured(
    checkpoint: Checkpoint,
    given: TrainingSet,
    *,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Progress | None = None,
) -> Captured:
    """Read every prompt once.

    Args:
        checkpoint: to be steered.
        given: prompts.
        batch_tokens: most tokens in a batch.
        workdir: in which the states of each batch are left, for a stopped run to go on from.
        progress: called with (stage, done, total).

    Raises:
        InputError: the model does not refuse harmful prompts by itself, or its template is uneven.
        NumericalError: a state is NaN or infinite.
    """
    parts = [
        [(kind, row) for kind in KINDS for row in part.of(kind).rows]
        for part in (given.train, given.validation)
    ]
    parts.append([("benign", row) for row in given.calibration.rows])
    rows = numbered([row for part in parts for _, row in part])
    shown = None if progress is None else lambda done, total: progress("states", done, total)
    states = prompt_states(
        checkpoint,
        rows,
        site="resid_post",
        batch_tokens=batch_tokens,
        workdir=None if workdir is None else workdir / "states",
        progress=shown,
    )
    refusal, answer = _openers(checkpoint, given.train, batch_tokens)
    reads, begin = [], 0
    for part in parts:
        here = slice(begin, begin + len(part))
        own = numbered(rows[here])
        odds = first_token_odds(checkpoint, own, refusal, batch_tokens)
        reads.append(Read(states[here], np.array([kind for kind, _ in part]), odds, tuple(own)))
        begin += len(part)
    train, validation, calibration = reads
    return Captured(checkpoint, given, train, validation, calibration, refusal, answer)


def numbered(rows: Sequence[Row]) -> list[Row]:
    """The rows, with their places as their indices."""
    return [Row(i, row.ids, row.domain, row.segments) for i, row in enumerate(rows)]


def first_token_odds(
    checkpoint: Checkpoint, rows: Sequence[Row], ids: Sequence[int], batch_tokens: int
) -> Float[np.ndarray, " rows"]:
    """Log-odds of refusal at the first new token of each row, in nats."""
    found = [
        refusal_log_odds(
            next_logits(
                checkpoint, numbered(rows[begin : begin + _AT_ONCE]), batch_tokens=batch_tokens
            ),
            ids,
        )
        for begin in range(0, len(rows), _AT_ONCE)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _openers(
    checkpoint: Checkpoint, train: Examples, batch_tokens: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First tokens of refusals and of answers: harmful prompts are refused, benign ones are not."""
    refused, complied = (
        next_logits(checkpoint, numbered(part.some(_FOR_TOKENS, 0).rows), batch_tokens=batch_tokens)
        for part in (train.harmful, train.benign)
    )
    try:
        tokens = find_refusal_tokens(refused, complied, checkpoint.tokenizer)
    except InputError as error:
        raise InputError(
            f"{checkpoint.name} answers the harmful training prompts like the benign ones, so "
            f"there is no refusal of its own to steer towards ({error})"
        ) from error
    gap = complied.double().softmax(-1).mean(0) - refused.double().softmax(-1).mean(0)
    # As many as the paper has phrases of answers (WAS, configs/paper_reproduction.yaml).
    answers = [i for i in torch.argsort(gap, descending=True)[:11].tolist() if gap[i] > 0]
    return tokens.ids, tuple(answers)
