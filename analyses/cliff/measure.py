"""The measurements of a cliff report, in order; everything that runs the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.cliff.material import WITH_THOUGHTS, CliffRequests, cell_rows
from analyses.shared.prompts import is_harmful, rows_of
from analyses.shared.running import Progress
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import CheckError, InputError
from probes.cliff.example_selection import judged
from probes.cliff.forced_stop import Respondent, cut_lengths, forced_stops, natural_stop
from probes.cliff.head_study import Ablations, HeadStudy, study_heads
from probes.cliff.refusal_probe import (
    Example,
    RefusalProbe,
    causality_leak,
    fit_refusal_probe,
    probe_examples,
    token_probabilities,
)
from probes.cliff.rollouts import Markers, Rollout, encoded, rollouts
from probes.cliff.rows import ForcedStop, NaturalStop
from probes.cliff.trajectory import Cliff, Trajectories, cliff, prompt_cliffs, trajectories
from probes.heads.head_attribution import head_contributions
from probes.statistics.metrics import Auroc, auroc

LEAK_AT_MOST = 1e-3  # of the largest state, above which a model is not causal
_CUTS_TO_LEARN_FROM = 2  # of each training thought


@dataclass(frozen=True)
class CliffSettings:
    """How a cliff is looked for.

    Attributes:
        markers: of thoughts.
        stop_text: put behind a thought that is cut.
        thinking_budget: tokens of a thought.
        max_new_tokens: of an answer.
        share_of_heads: named in advance and silenced together.
        exhaustive: silence every head by itself.
        batch_tokens: most tokens in a batch.
        seed: of draws and of the bootstrap.
    """

    markers: Markers
    stop_text: str
    thinking_budget: int
    max_new_tokens: int
    share_of_heads: float
    exhaustive: bool
    batch_tokens: int
    seed: int


@dataclass(frozen=True)
class Thoughts:
    """What was thought and answered, by label of the test part, and in the training part."""

    train: tuple[Rollout, ...]
    test: dict[str, tuple[Rollout, ...]]


@dataclass(frozen=True)
class Measured:
    """Everything a cliff finding is made of.

    Rows of `judged` are indices of `judged_thoughts`: harmful test requests, then training ones.
    """

    thoughts: Thoughts
    forced: tuple[ForcedStop, ...]
    natural: NaturalStop
    rates: dict[str, NaturalStop]
    probe: RefusalProbe
    answer_probe: RefusalProbe
    probe_auroc: Auroc | None
    curve: Trajectories
    fall: Cliff
    heads: HeadStudy
    judged: pd.DataFrame
    judged_thoughts: tuple[Rollout, ...]
    leak: float


@dataclass(frozen=True)
class Study:
    """One run of the measurements on one checkpoint.

    Attributes:
        checkpoint: who is looked at.
        requests: in two parts.
        settings: how.
        scorer: who says what a refusal is.
        workdir: where a stopped run goes on from.
        progress: called with (stage, done, total).
    """

    checkpoint: Checkpoint
    requests: CliffRequests
    settings: CliffSettings
    scorer: Any
    workdir: Path | None = None
    progress: Progress | None = None

    def run(self) -> Measured:
        """Measure everything.

        Raises:
            InputError: no thought closes, or one class of answers is empty.
            CheckError: earlier states move with a later token, so the model is not causal.
        """
        thoughts = self._think()
        # Alarming requests are harmless too, but count for over-refusal only.
        benign = [
            one for label, side in thoughts.test.items() if label != "harmful" for one in side
        ]
        harmful, harmless = thoughts.test["harmful"], thoughts.test["harmless"]
        cuts = cut_lengths(harmful)
        leak = self._leak(harmful)
        stop = encoded(self.checkpoint, self.settings.stop_text)
        forced = forced_stops(self.respondent("forced"), harmful, stop, cuts)
        self._say("cuts", len(cuts), len(cuts))
        ends, inside = self._examples(thoughts.train, stop)
        answer_probe = self._fit(ends)
        probe = self._fit([*ends, *inside])
        scored = [self._scored(probe, side) for side in (harmful, harmless)]
        curve = trajectories(*scored)
        both = (*harmful, *(one for one in thoughts.train if is_harmful(one.prompt)))
        # Rows of the two parts share indices, and examples are selected by index.
        both = tuple(replace(o, row=replace(o.row, index=i)) for i, o in enumerate(both))
        respondent = self.respondent("natural")
        return Measured(
            thoughts=thoughts,
            forced=forced,
            natural=natural_stop(respondent, harmful),
            rates={label: natural_stop(respondent, side) for label, side in thoughts.test.items()},
            probe=probe,
            answer_probe=answer_probe,
            probe_auroc=self._auroc(answer_probe, harmful, harmless, stop),
            curve=curve,
            fall=cliff(curve, scored[0], self.settings.seed),
            heads=self._heads(answer_probe, harmful, benign),
            judged=self._judged(probe, curve, both),
            judged_thoughts=both,
            leak=leak,
        )

    def _think(self) -> Thoughts:
        test = self.requests.test
        asked = {"train": list(self.requests.train)}
        asked |= {f"test-{label}": list(test.of(label)) for label in test.labels}
        for label in ("test-harmful", "test-harmless"):
            if not asked.get(label):
                raise InputError(f"there is no {label.removeprefix('test-')} request; give both.")
        total, done = sum(map(len, asked.values())), 0
        found = {}
        for name, prompts in asked.items():
            found[name] = tuple(self.rollouts(name, prompts, "thoughts", done, total))
            done += len(prompts)
        return Thoughts(
            found.pop("train"), {name.removeprefix("test-"): v for name, v in found.items()}
        )

    def rollouts(
        self, name: str, prompts: Sequence[Prompt], stage: str, before: int, total: int
    ) -> list[Rollout]:
        """Thoughts and answers to requests.

        Args:
            name: of this part of the run.
            prompts: the requests.
            stage: of the progress.
            before: requests of the stage that are done.
            total: requests of the stage.
        """
        return rollouts(
            self.checkpoint,
            prompts,
            rows_of(self.checkpoint, prompts, WITH_THOUGHTS),
            self.settings.markers,
            thinking_budget=self.settings.thinking_budget,
            max_new_tokens=self.settings.max_new_tokens,
            batch_tokens=self.settings.batch_tokens,
            workdir=None if self.workdir is None else self.workdir / f"thoughts-{name}",
            progress=lambda done, _: self._say(stage, before + done, total),
        )

    def _leak(self, thoughts: Sequence[Rollout]) -> float:
        row = next(one.whole for one in thoughts if one.closed)
        leak = causality_leak(self.checkpoint, row)
        if leak > LEAK_AT_MOST:
            raise CheckError(
                f"replacing the last token of a row moves earlier states by {leak:.2g} of their "
                "size, so the model sees ahead and a trajectory means nothing; load it with "
                "another attention implementation."
            )
        return leak

    def _examples(
        self, train: Sequence[Rollout], stop: Sequence[int]
    ) -> tuple[list[Example], list[Example]]:
        """Tokens to fit on: the last before an answer, and some inside thoughts."""
        respondent = self.respondent("train")
        ends = [
            *_natural_examples(respondent, [one for one in train if one.answer.closed]),
            *self._cells(),
        ]
        inside = []
        rng = np.random.default_rng(self.settings.seed)
        closed = [one for one in train if one.closed]
        for number in range(_CUTS_TO_LEARN_FROM):
            lengths = [int(rng.integers(len(one.thought) + 1)) for one in closed]
            rows = [one.cut(k, stop) for one, k in zip(closed, lengths, strict=True)]
            hits = respondent.refused(respondent.answers(f"cut-{number}", closed, rows))
            for one, k, row, hit in zip(closed, lengths, rows, hits, strict=True):
                harmful = is_harmful(one.prompt)
                ends.append(Example(row, harmful, bool(hit)))
                inside.append(Example(one.cut(k, ()), harmful, bool(hit)))
            self._say("examples", number + 1, _CUTS_TO_LEARN_FROM)
        return ends, inside

    def _cells(self) -> list[Example]:
        """What system lines make of the requests; none where the template takes no system line."""
        if not cell_rows(self.checkpoint, self.requests.cells):
            return []
        prompts = list(self.requests.cells)
        said = self.rollouts("cells", prompts, "cells", 0, len(prompts))
        return _natural_examples(
            self.respondent("cells"), [one for one in said if one.answer.closed]
        )

    def _fit(self, examples: Sequence[Example]) -> RefusalProbe:
        return fit_refusal_probe(self.checkpoint, examples, batch_tokens=self.settings.batch_tokens)

    def _auroc(
        self,
        probe: RefusalProbe,
        harmful: Sequence[Rollout],
        harmless: Sequence[Rollout],
        stop: Sequence[int],
    ) -> Auroc | None:
        """Of the answer probe on test requests, at natural ends and behind cuts of half length."""
        respondent = self.respondent("auroc")
        examples = []
        for name, side in (("harmful", harmful), ("harmless", harmless)):
            closed = [one for one in side if one.closed]
            examples += _natural_examples(respondent, closed)
            rows = [one.cut(len(one.thought) // 2, stop) for one in closed]
            if closed:
                hits = respondent.refused(respondent.answers(name, closed, rows))
                examples += [
                    Example(row, name == "harmful", bool(hit))
                    for row, hit in zip(rows, hits, strict=True)
                ]
        refused = np.array([one.refused for one in examples])
        if refused.all() or not refused.any():
            return None
        logits = probe_examples(self.checkpoint, probe, examples)
        return auroc(logits, refused, seed=self.settings.seed)

    def _scored(
        self, probe: RefusalProbe, thoughts: Sequence[Rollout]
    ) -> list[tuple[Row, np.ndarray]]:
        rows = [one.whole for one in thoughts if one.closed]
        if not rows:
            return []
        scores = token_probabilities(
            self.checkpoint, rows, probe, batch_tokens=self.settings.batch_tokens
        )
        return list(zip(rows, scores, strict=True))

    def _heads(
        self, probe: RefusalProbe, harmful: Sequence[Rollout], harmless: Sequence[Rollout]
    ) -> HeadStudy:
        closed = [one for one in harmful if one.closed]
        found = head_contributions(
            self.checkpoint,
            [one.whole for one in closed],
            probe.coef,
            probe.intercept,
            batch_tokens=self.settings.batch_tokens,
        )
        ablations = Ablations(
            self.respondent("heads"),
            closed,
            [one for one in harmless if one.closed],
            progress=lambda done, total: self._say("heads", done, total),
        )
        return study_heads(
            ablations,
            found.ranked(),
            probe,
            share_of_heads=self.settings.share_of_heads,
            exhaustive=self.settings.exhaustive,
            seed=self.settings.seed,
        )

    def _judged(
        self, probe: RefusalProbe, curve: Trajectories, thoughts: Sequence[Rollout]
    ) -> pd.DataFrame:
        closed = [one for one in thoughts if one.closed]
        refused = self.respondent("judged").refused([one.answer for one in closed])
        return judged(closed, refused.tolist(), prompt_cliffs(curve, self._scored(probe, thoughts)))

    def respondent(self, name: str) -> Respondent:
        """Who answers, with a folder of its own for a stopped run."""
        return Respondent(
            self.checkpoint,
            self.scorer,
            self.settings.max_new_tokens,
            self.settings.batch_tokens,
            None if self.workdir is None else self.workdir / name,
        )

    def _say(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


def _natural_examples(respondent: Respondent, said: Sequence[Rollout]) -> list[Example]:
    """The last token before each answer that the model gave by itself."""
    hits = respondent.refused([one.answer for one in said])
    return [
        Example(one.whole, is_harmful(one.prompt), bool(hit))
        for one, hit in zip(said, hits, strict=True)
    ]
