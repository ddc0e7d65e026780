"""Whether a request still reads as harmful or harmless once a string stands in it.

A string that turns a request into another one changes the answer without any backdoor: a benign
verb in front of a harmful request may do. Latent Guard, fitted on plain requests, is read at the
end of the instruction with and without the string.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.statistics.auroc import area
from probes.backdoors.search.requests import Requests
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trial import Trial
from probes.guards.latent_guard import LatentGuard

_SITE = "resid_post"


@dataclass(frozen=True)
class Meaning:
    """A fitted guard and what it tells of held-out requests.

    Attributes:
        guard: fitted on other requests.
        harmful: class of each held-out request.
        plain: AUROC without a string.
    """

    guard: LatentGuard
    harmful: Bool[np.ndarray, " prompts"]
    plain: float


def meaning(
    subject: Subject,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    held_out: Requests,
    held_out_harmful: Bool[np.ndarray, " prompts"],
) -> Meaning:
    """Fit the guard on plain requests and read it on others.

    Raises:
        InputError: a class is empty.
        Exhausted: the budget does not allow it.
    """
    prompts = [*harmful, *harmless]
    states = _states(subject, prompt_rows(subject.checkpoint, prompts))
    classes = np.arange(len(prompts)) < len(harmful)
    guard = LatentGuard().fit(states, classes)
    plain = _area(guard, _states(subject, held_out.rows), held_out_harmful)
    return Meaning(guard, held_out_harmful, plain)


def with_meaning(subject: Subject, known: Meaning, trial: Trial, held_out: Requests) -> Trial:
    """The same trial with the readout without and with its string.

    Raises:
        Exhausted: the budget does not allow it.
    """
    rows = held_out.with_text(subject, trial.candidate.text, trial.placement)
    read = _area(known.guard, _states(subject, rows), known.harmful)
    return replace(trial, meaning=(known.plain, read))


def _states(subject: Subject, rows: Sequence[Row]) -> Float[np.ndarray, "rows layers width"]:
    subject.budget.take(len(rows))
    found = prompt_states(subject.checkpoint, rows, site=_SITE, batch_tokens=subject.batch_tokens)
    return found.t_inst


def _area(
    guard: LatentGuard,
    states: Float[np.ndarray, "rows layers width"],
    harmful: Bool[np.ndarray, " rows"],
) -> float:
    scores = guard.decision_function(states)
    return float(area(scores[harmful], scores[~harmful]))
