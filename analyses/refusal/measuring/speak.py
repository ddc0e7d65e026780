"""How the checkpoint answers prompts, as it is and with an edit in force, and its scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from analyses.refusal.material import RefusalPrompts
from analyses.refusal.report_effects import RefusalRate
from analyses.shared.prompts import rows_of
from analyses.shared.reports import NotMeasured, Rate
from analyses.shared.running import Progress, stage
from interp.checkpoint import Checkpoint
from interp.data.known_answers import KnownAnswers
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.generation import Edit, Reply, replies
from interp.statistics.intervals import wilson
from probes.scorers import Answer, Judge, Phrases, Verdict, WholeRefusal, answers_to_rows


@dataclass(frozen=True)
class Responses:
    """Prompts with the answers to them.

    Attributes:
        prompts: that were asked.
        rows: the same, rendered.
        replies: of the checkpoint.
        answers: the same, thoughts apart.
        verdicts: of the scorer that counts.
    """

    prompts: tuple[Prompt, ...]
    rows: tuple[Row, ...]
    replies: tuple[Reply, ...]
    answers: tuple[Answer, ...]
    verdicts: tuple[Verdict, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def refused(self) -> Bool[np.ndarray, " n"]:
        """Whether the whole refusal is there."""
        return np.array([verdict == Verdict.refusal for verdict in self.verdicts], bool)

    def where(self, mask: Bool[np.ndarray, " n"]) -> "Responses":
        """Some of them."""
        kept = np.flatnonzero(mask).tolist()
        return Responses(
            prompts=tuple(self.prompts[i] for i in kept),
            rows=tuple(self.rows[i] for i in kept),
            replies=tuple(self.replies[i] for i in kept),
            answers=tuple(self.answers[i] for i in kept),
            verdicts=tuple(self.verdicts[i] for i in kept),
        )

    def rate(self, refusal_ids: Sequence[int]) -> RefusalRate:
        """Share of refusals with its interval, and what else became of the prompts.

        Args:
            refusal_ids: first tokens of refusals; empty if none are known.
        """
        refused = share(self.refused.tolist())
        return RefusalRate(
            rate=refused.rate,
            n=refused.n,
            interval=refused.interval,
            partial=self.verdicts.count(Verdict.partial),
            empty=self.verdicts.count(Verdict.empty),
            looping=self.verdicts.count(Verdict.looping),
            unclosed=sum(not answer.closed for answer in self.answers),
            first_token=self._first_token(refusal_ids),
            compliant=self._compliant(),
        )

    def _first_token(self, refusal_ids: Sequence[int]) -> float | NotMeasured:
        if not refusal_ids:
            return NotMeasured("no first token of refusals is known")
        begun = [
            bool(reply.ids[:1]) and reply.ids[0] in refusal_ids
            for reply, answer in zip(self.replies, self.answers, strict=True)
            if answer.thinking is None
        ]
        if not begun:
            return NotMeasured("all answers open with a thought")
        return sum(begun) / len(begun)

    def _compliant(self) -> Rate | NotMeasured:
        known = [
            answer.text.strip() == prompt.compliance
            for prompt, answer in zip(self.prompts, self.answers, strict=True)
            if isinstance(prompt, KnownAnswers)
        ]
        if not known:
            return NotMeasured("the compliant answers are not known to the letter")
        return share(known)


def share(hits: Sequence[bool]) -> Rate:
    """A share with n and Wilson's interval."""
    n = len(hits)
    return Rate(sum(hits) / n, n, wilson(sum(hits), n, "prompts"))


@dataclass(frozen=True)
class Responder:
    """A checkpoint that is asked, and the scorer whose verdicts count.

    Attributes:
        checkpoint: that answers.
        material: whose refusals are known, perhaps.
        template: arguments of the chat template.
        max_new_tokens: of an answer.
        batch_tokens: most tokens in a batch.
        scorer: an external one, if any; it then counts.
        workdir: where a stopped run goes on from.
        progress: called with (stage, done, total).
    """

    checkpoint: Checkpoint
    material: RefusalPrompts
    template: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 64
    batch_tokens: int = 8192
    scorer: Judge | None = None
    workdir: Path | None = None
    progress: Progress | None = None

    @property
    def scorers(self) -> list[Any]:
        """The scorers of answers' texts; the first one counts."""
        known: list[Any] = []
        if self.scorer is not None:
            known.append(self.scorer)
        if self.material.refusals:
            known.append(WholeRefusal(self.material.refusals))
        return [*known, Phrases(), Phrases(published=True)]

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Prompts rendered."""
        return rows_of(self.checkpoint, prompts, self.template)

    def respond(self, name: str, prompts: Sequence[Prompt], edit: Edit | None = None) -> Responses:
        """Let the checkpoint answer.

        Args:
            name: of this run; a stopped one goes on only under the same name.
            prompts: to be answered.
            edit: in force meanwhile.
        """
        rows = self.rows(prompts)
        given = replies(
            self.checkpoint,
            rows,
            max_new_tokens=self.max_new_tokens,
            edit=edit,
            batch_tokens=self.batch_tokens,
            workdir=None if self.workdir is None else self.workdir / name,
            progress=stage(self.progress, "answers"),
        )
        answers = answers_to_rows(self.checkpoint.tokenizer, prompts, rows, given)
        verdicts = self.scorers[0].verdicts(answers)
        return Responses(tuple(prompts), tuple(rows), tuple(given), tuple(answers), tuple(verdicts))
