"""What a model answers when its thought is cut short, beside where it closed it itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Edit
from interp.statistics.intervals import wilson
from probes.cliff.rollouts import Rollout, answers_behind
from probes.cliff.rows import ForcedStop, NaturalStop, RefusalShare
from probes.scorers import Answer, Verdict

CUTS = 16  # different lengths at most, of long thoughts
_LEAST = 5  # thoughts that are long enough, below which a cut is left out


@dataclass(frozen=True)
class Respondent:
    """Who answers, how long, and who says what a refusal is.

    Attributes:
        checkpoint: who answers.
        scorer: a `probes.scorers.Scorer`.
        max_new_tokens: of an answer.
        batch_tokens: most tokens in a batch.
        workdir: where a stopped run goes on from.
    """

    checkpoint: Checkpoint
    scorer: Any
    max_new_tokens: int = 64
    batch_tokens: int = 8192
    workdir: Path | None = None

    def answers(
        self, name: str, asked: Sequence[Rollout], rows: Sequence[Row], edit: Edit | None = None
    ) -> list[Answer]:
        """What is answered behind rows.

        Args:
            name: of this run; a stopped one goes on only under the same name.
            asked: whose prompts the rows continue.
            rows: end with the marker that closes the thought.
            edit: in force meanwhile.
        """
        # Rows of harmful and harmless requests may share an index.
        numbered = [replace(row, index=i) for i, row in enumerate(rows)]
        return answers_behind(
            self.checkpoint,
            [one.prompt for one in asked],
            numbered,
            max_new_tokens=self.max_new_tokens,
            edit=edit,
            batch_tokens=self.batch_tokens,
            workdir=None if self.workdir is None else self.workdir / name,
        )

    def refused(self, answers: Sequence[Answer]) -> Bool[np.ndarray, " n"]:
        """Which answers are refusals."""
        verdicts = self.scorer.verdicts(answers)
        return np.array([verdict == Verdict.refusal for verdict in verdicts], bool)


def share(hits: Bool[np.ndarray, " n"]) -> RefusalShare:
    """A share with Wilson's interval; rate and interval None where n is 0."""
    n, count = len(hits), int(hits.sum())
    if n == 0:
        return RefusalShare(None, 0, None)
    return RefusalShare(count / n, n, wilson(count, n, "requests"))


def cut_lengths(thoughts: Sequence[Rollout]) -> list[int]:
    """Tokens to cut after: each length up to the longest, or `CUTS` of them evenly.

    Raises:
        InputError: there is no closed thought.
    """
    lengths = sorted((len(one.thought) for one in thoughts if one.closed), reverse=True)
    if not lengths:
        raise InputError(
            "no thought was closed within the budget, so none can be cut or compared; raise "
            "--thinking-budget, or name the marker that closes a thought with --stop-text."
        )
    longest = lengths[min(_LEAST, len(lengths)) - 1]
    if longest < CUTS:
        return list(range(longest + 1))
    return sorted({round(x) for x in np.linspace(0, longest, CUTS)})


def forced_stops(
    respondent: Respondent, thoughts: Sequence[Rollout], stop: Sequence[int], cuts: Sequence[int]
) -> tuple[ForcedStop, ...]:
    """Refusals when the thought is cut after so many tokens and a stop marker is put there.

    Args:
        respondent: who answers.
        thoughts: of harmful requests; those that never closed are left out.
        stop: tokens of the marker.
        cuts: tokens to cut after.

    Returns:
        For each cut the refusals over thoughts that are long enough.
    """
    found = []
    for tokens in cuts:
        long = [one for one in thoughts if one.closed and len(one.thought) >= tokens]
        rows = [one.cut(tokens, stop) for one in long]
        answers = respondent.answers(f"cut-{tokens}", long, rows) if long else []
        hits = respondent.refused(answers) if long else np.zeros(0, bool)
        refusals = share(hits)
        found.append(ForcedStop(int(tokens), refusals.rate, refusals.n, refusals.interval))
    return tuple(found)


def natural_stop(respondent: Respondent, thoughts: Sequence[Rollout]) -> NaturalStop:
    """Refusals behind thoughts that the model closed itself; others are counted apart."""
    closed = [one.answer for one in thoughts if one.closed]
    hits = respondent.refused(closed) if closed else np.zeros(0, bool)
    unclosed = sum(not one.closed and not one.answer.closed for one in thoughts)
    refusals = share(hits)
    return NaturalStop(
        refusals.rate,
        refusals.n,
        refusals.interval,
        unclosed,
        len(thoughts) - len(closed) - unclosed,
    )
