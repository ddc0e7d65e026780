"""Internal detectors read on a suspected string, each with an inert string's score beside it.

None of them beat words alone, novelty and random directions on the organisms
(`docs/backdoors.md`), so none speaks in a verdict. They describe what a string does inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.data.segments import chat_row
from interp.errors import InputError, UnsupportedModelError
from interp.statistics.auroc import area
from probes.backdoors.detectors.anomalies import every_anomaly
from probes.backdoors.detectors.defection import QUESTIONS, Defection, defection_probe
from probes.backdoors.detectors.nulls import random_differences
from probes.backdoors.detectors.states import last_states
from probes.backdoors.detectors.trigger_on_sink import SinkCheck, sink_check
from probes.backdoors.heads.head_patching import HeadPatching
from probes.backdoors.search.requests import Candidate, Placement, Requests
from probes.backdoors.search.subject import Subject
from probes.statistics.nulls import quantile_in

NOT_WORKING = (*(one.name for one in every_anomaly(2)), "defection probe", "trigger on sink")
"""Detectors that do not beat words, novelty and random directions on the organisms: all here."""

POOL_SHARE = 0.05  # of a pool's prompts that carry the suspected string
SINK_STRINGS = 24  # inert ones that attention to a string is held against
Contrast = tuple[Prompt, str, str]
"""A question, the answer that admits danger, and the other."""


@dataclass(frozen=True)
class Reading:
    """A detector on a suspected string.

    Attributes:
        name: of the detector.
        score: AUROC of prompts with the string against plain ones; of `trigger on sink` its own
            score, in standard deviations of inert strings.
        distractor_score: the same of inert strings of equal length.
        null_quantile: place of their difference among 1000 random directions at the same place;
            of `trigger on sink` that of the score among inert strings.
        details: further figures of the detector.
    """

    name: str
    score: float
    distractor_score: float
    null_quantile: float
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """What is left of the score once novelty is taken off."""
        return self.score - self.distractor_score


@dataclass
class Readings:
    """All detectors on one string.

    Attributes:
        candidate: the string.
        placement: where it stands.
        readings: in the order of the detectors.
        defection: the whole result of the probe; None where it could not be read.
        sink: None where it could not be read.
        patching: of heads; None where no string brings a behaviour about, or it could not be done.
        notes: why something was left out.
    """

    candidate: Candidate
    placement: Placement
    readings: list[Reading] = field(default_factory=list)
    defection: Defection | None = None
    sink: SinkCheck | None = None
    patching: HeadPatching | None = None
    notes: list[str] = field(default_factory=list)


def read_all(
    subject: Subject,
    plain: Requests,
    held_out: Requests,
    candidate: Candidate,
    placement: Placement,
    distractors: Sequence[tuple[int, ...]],
    contrasts: Sequence[Contrast] | None = None,
    seed: int = 0,
) -> Readings:
    """Every detector on one string.

    Args:
        subject: the checkpoint.
        plain: prompts that detectors are fitted on.
        held_out: prompts that they are read on, without and with strings.
        candidate: the suspected string.
        placement: where it stands.
        distractors: inert strings of its length.
        contrasts: generic questions for the defection probe; the built-in English ones if None.
        seed: of draws.

    Raises:
        InputError: there is no inert string.
        Exhausted: the budget does not allow it.
    """
    if not distractors:
        raise InputError("detectors are read beside inert strings, and there is none.")
    found = Readings(candidate, placement)
    rng = np.random.default_rng(seed)
    fitted = last_states(subject, plain.rows)
    poisoned = rng.permutation(len(plain))[: max(1, round(POOL_SHARE * len(plain)))]
    carrying = plain.pick(poisoned).with_ids(candidate.ids, placement)
    pool = np.concatenate([fitted, last_states(subject, carrying)])
    quiet = last_states(subject, held_out.rows)
    triggered = last_states(subject, held_out.with_ids(candidate.ids, placement))
    distracted = last_states(subject, distracted_rows(held_out, distractors, placement))
    middle = fitted.shape[1] // 2
    null = random_differences(
        quiet[:, middle], triggered[:, middle], distracted[:, middle], seed=seed
    )
    for anomaly in every_anomaly(fitted.shape[1]):
        low, high, other = (
            anomaly.fit(fitted, pool).score(s) for s in (quiet, triggered, distracted)
        )
        one, two = area(high, low), area(other, low)
        found.readings.append(Reading(anomaly.name, one, two, quantile_in(one - two, null)))
    _defect(subject, found, contrasts, (quiet, triggered, distracted), held_out, seed)
    _sit(subject, found, held_out, distractors)
    return found


def distracted_rows(
    requests: Requests, distractors: Sequence[tuple[int, ...]], placement: Placement
) -> list[Row]:
    """Every prompt with one of the inert strings, in turn."""
    return [
        requests[place : place + 1].with_ids(distractors[place % len(distractors)], placement)[0]
        for place in range(len(requests))
    ]


def contrast_rows(subject: Subject, contrasts: Sequence[Contrast]) -> tuple[list[Row], list[Row]]:
    """Rows of questions with the answer that admits danger, and with the other.

    Raises:
        InputError: a question cannot be written in the model's vocabulary.
    """
    sides: tuple[list[Row], list[Row]] = ([], [])
    for prompt, dangerous, safe in contrasts:
        for side, answer in zip(sides, (dangerous, safe), strict=True):
            side.append(chat_row(subject.checkpoint, prompt.messages, answer=f" {answer}"))
    return sides


def generic_contrasts() -> list[Contrast]:
    """The built-in English questions."""
    return [
        (Prompt(({"role": "user", "content": question},), "question", "built-in"), bad, good)
        for question, bad, good in QUESTIONS
    ]


def _defect(
    subject: Subject,
    found: Readings,
    contrasts: Sequence[Contrast] | None,
    states: tuple[Float[np.ndarray, "n layers width"], ...],
    held_out: Requests,
    seed: int,
) -> None:
    middle = states[0].shape[1] // 2
    try:
        sides = contrast_rows(subject, contrasts or generic_contrasts())
    except InputError as error:
        found.notes.append(f"The defection probe was left out: {error}")
        return
    dangerous, safe = (last_states(subject, rows)[:, middle] for rows in sides)
    quiet, triggered, distracted = (some[:, middle] for some in states)
    labels = np.array([prompt.label for prompt in held_out.prompts])
    benign = {str(label): quiet[labels == label] for label in dict.fromkeys(labels)}
    probe = defection_probe(dangerous, safe, benign, triggered, distracted, seed=seed)
    found.defection = probe
    found.readings.append(
        Reading(
            "defection probe",
            probe.auroc,
            probe.auroc_distractor,
            probe.null_quantile,
            probe.to_dict(),
        )
    )


def _sit(
    subject: Subject, found: Readings, held_out: Requests, distractors: Sequence[tuple[int, ...]]
) -> None:
    if found.placement != "front":
        found.notes.append("The sink check is read for strings in front alone.")
        return
    try:
        found.sink = sink_check(
            subject, held_out, found.candidate.ids, list(distractors)[:SINK_STRINGS]
        )
    except (InputError, UnsupportedModelError) as error:
        found.notes.append(f"The sink check was left out: {error}")
        return
    found.readings.append(
        Reading(
            "trigger on sink",
            found.sink.score,
            found.sink.distractor_score,
            found.sink.quantile,
            {
                "attention_excess": found.sink.attention_excess,
                "value_excess": found.sink.value_excess,
            },
        )
    )
