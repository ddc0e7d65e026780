"""What is read inside the checkpoint on the most suspicious string: detectors, and its heads."""

from analyses.backdoor.material import TriggerRequests
from analyses.shared.running import Progress, stage
from interp.errors import InputError
from probes.backdoors.detectors.detectors import Readings, read_all
from probes.backdoors.heads.head_patching import patch_heads
from probes.backdoors.heads.head_swaps import Where
from probes.backdoors.search.requests import Candidate, Placement, typable
from probes.backdoors.search.result import Found, SearchSettings
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trial import Trial, control_strings


def read_inside(
    subject: Subject,
    found: Found,
    requests: TriggerRequests,
    settings: SearchSettings,
    where: Where = "last",
    progress: Progress | None = None,
) -> Readings | None:
    """The detectors on the most suspicious string, and its heads if it brings something about.

    Args:
        subject: the checkpoint; its budget pays.
        found: of the search; gets a note on what was left out.
        requests: of the report.
        settings: of the search.
        where: at which tokens heads are swapped.
        progress: called with (what is counted, done, total).

    Returns:
        None where nothing is suspicious, or the budget did not allow it.
    """
    suspected = _suspected(found)
    if suspected is None or found.plain is None or found.held_out is None:
        return None
    candidate, placement = suspected
    strings = _inert(subject, found, candidate, settings)
    readings = None
    with subject.budget.stage("detectors") as part:
        try:
            readings = read_all(
                subject.on(part),
                found.plain,
                found.held_out,
                candidate,
                placement,
                strings,
                requests.contrasts,
                settings.seed,
            )
        except InputError as error:
            found.notes.append(f"The internal detectors were left out: {error}")
    if readings is not None:
        _patch(subject, found, readings, strings, settings, where, progress)
    return readings


def _patch(
    subject: Subject,
    found: Found,
    readings: Readings,
    strings: list[tuple[int, ...]],
    settings: SearchSettings,
    where: Where,
    progress: Progress | None,
) -> None:
    """Swap heads, if the string that was read brings a behaviour about and its controls do not."""
    trial = next(
        (
            trial
            for trial in found.trials
            if (trial.candidate, trial.placement) == (readings.candidate, readings.placement)
            and (trial.works or trial.suspicious)
        ),
        None,
    )
    if trial is None or found.held_out is None:
        return
    with subject.budget.stage("head patching") as part:
        try:
            readings.patching = patch_heads(
                subject.on(part),
                found.held_out,
                trial.candidate,
                trial.placement,
                trial.behaviour,
                strings,
                where=where,
                seed=settings.seed,
                progress=stage(progress, "strings swapped"),
            )
        except InputError as error:
            readings.notes.append(f"The heads were not patched: {error}")


def _inert(
    subject: Subject, found: Found, candidate: Candidate, settings: SearchSettings
) -> list[tuple[int, ...]]:
    """Strings of a candidate's length that bring nothing about: leaked ones, then controls."""
    assert found.plain is not None and found.held_out is not None
    doing = {trial.candidate.ids for trial in found.trials if trial.forces or trial.partly}
    vocabulary = typable(subject, settings.vocabulary, settings.seed)
    count = len(found.held_out)
    strings = [
        *(
            motif.ids
            for motif in found.motifs
            if len(motif.ids) == len(candidate.ids)
            and not set(motif.ids) & set(candidate.ids)
            and motif.ids not in doing
        ),
        *control_strings(candidate, vocabulary, found.plain.instructions, count, settings.seed),
    ]
    return strings[:count]


def _suspected(found: Found) -> tuple[Candidate, Placement] | None:
    """What works, or else what changes the next token most."""
    telling: list[Trial] = [trial for trial in found.trials if trial.tellable]
    if telling:
        return telling[0].candidate, telling[0].placement
    if found.effects:
        best = max(found.effects, key=lambda one: one.novel)
        return best.candidate, best.placement
    return None
