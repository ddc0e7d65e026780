"""Settings tried through the model on validation prompts, and the choice among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.generation import Edit, replies
from probes.scorers import Phrases, Verdict, WholeRefusal, answers_to_rows
from steering.policy.policy import Policy
from steering.runtime.runtime import as_edit
from steering.training.examples import Captured, Cases, Progress, numbered
from steering.training.options import Options


@dataclass(frozen=True)
class TuningPrompts:
    """Validation prompts on which settings are tried.

    Attributes:
        read: whose model answers.
        refuse: prompts to be refused: jailbroken ones, or harmful ones if there are none.
        keep: harmful ones that are refused without a policy, where the others are jailbroken.
        spare: benign prompts.
        max_new_tokens: of an answer.
        batch_tokens: most tokens in a batch.
    """

    read: Captured
    refuse: Cases
    keep: Cases
    spare: Cases
    max_new_tokens: int
    batch_tokens: int

    def refused(self, edit: Edit | None, kept: Path | None) -> tuple[float, float, float]:
        """Shares of `refuse`, `spare` and `keep` that are refused, by what is said; 0 of none.

        Args:
            edit: in force meanwhile.
            kept: folder of the replies under this edit, from which a stopped run goes on.
        """
        checkpoint, cases = self.read.checkpoint, (self.refuse, self.spare, self.keep)
        prompts = [prompt for some in cases for prompt in some.prompts]
        rows = numbered([row for some in cases for row in some.rows])
        said = replies(
            checkpoint,
            rows,
            max_new_tokens=self.max_new_tokens,
            edit=edit,
            batch_tokens=self.batch_tokens,
            workdir=kept,
        )
        told = answers_to_rows(checkpoint.tokenizer, prompts, rows, said)
        known = self.read.given.refusals
        verdicts = (WholeRefusal(known) if known else Phrases()).verdicts(told)
        refused = np.array([verdict == Verdict.refusal for verdict in verdicts])
        ends = np.cumsum([len(some) for some in cases])
        parts = np.split(refused, ends[:-1])
        hit, over, still = (float(part.mean()) if len(part) else 0.0 for part in parts)
        return hit, over, still


def tune(
    read: Captured,
    candidates: Sequence[tuple[dict[str, Any], Policy]],
    options: Options,
    workdir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Policy, list[dict[str, Any]]]:
    """Try every setting, and take the one that refuses most beyond what it refuses too much.

    The score is the share of refusals among prompts to be refused, less the share among benign
    ones in excess of the unsteered model's, less what is lost of its refusals of harmful prompts.
    Among settings that tie, the middle one in order of strength is taken, which is at no edge of a
    plateau; if none helps, the weakest of them.

    Args:
        read: with the validation prompts.
        candidates: settings with their policies.
        options: how many prompts, and how they are answered.
        workdir: where the replies under each setting are left, for a stopped run to go on from.
        progress: called with (stage, done, total).

    Returns:
        The policy, and for every setting what came of it.
    """
    held = read.given.validation
    attacked = bool(len(held.jailbroken))
    most, seed = options.prompts, options.seed
    prompts = TuningPrompts(
        read,
        (held.jailbroken if attacked else held.harmful).some(most, seed),
        held.harmful.some(most, seed) if attacked else Cases(),
        held.benign.some(most, seed),
        options.max_new_tokens,
        options.batch_tokens,
    )
    _, over_before, kept_before = prompts.refused(
        None, None if workdir is None else workdir / "unsteered"
    )
    trials: list[dict[str, Any]] = []
    for number, (setting, policy) in enumerate(candidates):
        own = None if workdir is None else workdir / f"setting-{number:03d}"
        hit, over, kept = prompts.refused(as_edit(read.checkpoint, policy), own)
        score = hit - max(0.0, over - over_before) - max(0.0, kept_before - kept)
        trials.append({**setting, "refused": hit, "over": over, "kept": kept, "score": score})
        if progress is not None:
            progress("settings", number + 1, len(candidates))
    best = max(trial["score"] for trial in trials)
    tied = [i for i, trial in enumerate(trials) if trial["score"] >= best - 1e-9]
    tied.sort(key=lambda i: trials[i]["strength"])
    chosen = tied[len(tied) // 2 if best > 0 else 0]
    for i, trial in enumerate(trials):
        trial["chosen"] = i == chosen
    return candidates[chosen][1], trials
