"""What the checkpoint says to prompts, as it is and with an edit in force, and how it is scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from analyses.refusal.material import Material
from analyses.shared.prompts import rows_of
from analyses.shared.running import Progress, stage
from interp.checkpoint import Checkpoint
from interp.data.known_answers import KnownAnswers
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.generation import Edit, Reply, replies
from interp.statistics.intervals import wilson
from probes.scorers import Answer, Judge, Phrases, Verdict, WholeRefusal, answers_to_rows


@dataclass(frozen=True)
class Said:
    """Prompts with the answers to them.

    Attributes:
        prompts: what was asked.
        rows: the same, rendered.
        replies: what was said.
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

    def where(self, mask: Bool[np.ndarray, " n"]) -> "Said":
        """Some of them."""
        kept = np.flatnonzero(mask).tolist()
        return Said(
            prompts=tuple(self.prompts[i] for i in kept),
            rows=tuple(self.rows[i] for i in kept),
            replies=tuple(self.replies[i] for i in kept),
            answers=tuple(self.answers[i] for i in kept),
            verdicts=tuple(self.verdicts[i] for i in kept),
        )

    def rate(self, refusal_ids: Sequence[int]) -> dict[str, Any]:
        """Share of refusals with its interval, and what else became of the prompts.

        `partial`, `empty` and `looping` are counts; `unclosed` counts thoughts that never ended.
        `first_token` is the share of answers whose first token is one of refusals, over the answers
        without a thought; None if there are none of these, or no tokens. `compliant` is the share
        of answers that comply to the letter, where that is known.

        Args:
            refusal_ids: first tokens of refusals; empty if none are known.
        """
        n, hits = len(self), int(self.refused.sum())
        found: dict[str, Any] = {"rate": hits / n, "n": n, "interval": list(wilson(hits, n))}
        for kind in (Verdict.partial, Verdict.empty, Verdict.looping):
            found[str(kind)] = sum(verdict == kind for verdict in self.verdicts)
        found["unclosed"] = sum(not answer.closed for answer in self.answers)
        begun = [
            reply.ids[:1] and reply.ids[0] in refusal_ids
            for reply, answer in zip(self.replies, self.answers, strict=True)
            if answer.thinking is None
        ]
        told = bool(begun and refusal_ids)
        found["first_token"] = sum(map(bool, begun)) / len(begun) if told else None
        known = [
            answer.text.strip() == prompt.compliance
            for prompt, answer in zip(self.prompts, self.answers, strict=True)
            if isinstance(prompt, KnownAnswers)
        ]
        if known:
            found["compliant"] = {
                "rate": sum(known) / len(known),
                "n": len(known),
                "interval": list(wilson(sum(known), len(known))),
            }
        return found


@dataclass(frozen=True)
class Speaker:
    """A checkpoint that is asked, and the scorer whose verdicts count.

    Attributes:
        checkpoint: who answers.
        material: whose refusals are known, perhaps.
        template: arguments of the chat template.
        max_new_tokens: of an answer.
        batch_tokens: most tokens in a batch.
        judge: an external scorer, if any; it then counts.
        workdir: where a stopped run goes on from.
        progress: called with (stage, done, total).
    """

    checkpoint: Checkpoint
    material: Material
    template: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 64
    batch_tokens: int = 8192
    judge: Judge | None = None
    workdir: Path | None = None
    progress: Progress | None = None

    @property
    def scorers(self) -> list[Any]:
        """The scorers of answers' texts; the first one counts."""
        known: list[Any] = []
        if self.judge is not None:
            known.append(self.judge)
        if self.material.refusals:
            known.append(WholeRefusal(self.material.refusals))
        return [*known, Phrases(), Phrases(published=True)]

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Prompts rendered."""
        return rows_of(self.checkpoint, prompts, self.template)

    def ask(self, name: str, prompts: Sequence[Prompt], edit: Edit | None = None) -> Said:
        """Let the checkpoint answer.

        Args:
            name: of this run; a stopped one goes on only under the same name.
            prompts: to be answered.
            edit: in force meanwhile.
        """
        rows = self.rows(prompts)
        told = replies(
            self.checkpoint,
            rows,
            max_new_tokens=self.max_new_tokens,
            edit=edit,
            batch_tokens=self.batch_tokens,
            workdir=None if self.workdir is None else self.workdir / name,
            progress=stage(self.progress, "answers"),
        )
        said = answers_to_rows(self.checkpoint.tokenizer, prompts, rows, told)
        verdicts = self.scorers[0].verdicts(said)
        return Said(tuple(prompts), tuple(rows), tuple(told), tuple(said), tuple(verdicts))
