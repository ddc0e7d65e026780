"""What becomes of the strings that force something: controls, the twin, and meaning."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from interp.data.prompt_sets import Prompt
from probes.backdoors.search.meaning import meaning, with_meaning
from probes.backdoors.search.result import Found, SearchSettings
from probes.backdoors.search.trial import (
    Bench,
    Trial,
    attempt,
    control_strings,
    on_twin,
    shortened,
    with_controls,
)

_CONTROLLED = 4  # strings that are held against controls
_CONTROL_PROMPTS = 20  # of which one may show the behaviour, which is 5 %


def confirmed(
    bench: Bench,
    found: Found,
    vocabulary: Sequence[int],
    settings: SearchSettings,
    *,
    prompts: Sequence[Prompt],
    harmful: Bool[np.ndarray, " held_out"] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Trial]:
    """The trials of a search, the strongest held against controls, the twin and their meaning.

    Args:
        bench: what strings are tried on, paid from the budget of the whole search.
        found: with plain answers and trials.
        vocabulary: tokens that control strings are drawn from.
        settings: of the search.
        prompts: to search with; where some are labelled `harmful`, meaning is checked.
        harmful: class of each held-out prompt; None if it is not known.
        progress: called with (`control strings`, done, total).

    Returns:
        The most working first.
    """
    assert found.plain is not None
    trials = sorted(found.trials, key=_order)
    # The best placement of each string: dict keeps the last of its key, so the best comes last.
    by_string = {t.candidate.ids: t for t in reversed(trials) if t.forces or t.partly}
    strong = sorted(by_string.values(), key=_order)[:_CONTROLLED]
    others = [trial for trial in trials if trial not in strong]
    few = bench.first(_CONTROL_PROMPTS)
    done: list[Trial] = []
    with bench.subject.stage("controls") as here:
        chosen = _with_shorter(bench.on(here.budget), strong)
        for trial in chosen:
            strings = control_strings(
                trial.candidate,
                vocabulary,
                found.plain.instructions,
                settings.controls,
                settings.seed,
                [other.candidate.ids for other in trials if _same_opening(trial, other)],
            )
            tell = _counted(progress, len(done), len(chosen))
            done.append(with_controls(few.on(here.budget), trial, strings, tell))
    missing = [t for t in strong if all(t.candidate != d.candidate for d in done)]
    trials = [*done, *missing, *others]
    with bench.subject.stage("twin") as here:
        for place, trial in enumerate(trials):
            if trial.control_share is not None:
                trials[place] = on_twin(bench.on(here.budget), trial)
    if harmful is not None and harmful.any() and not harmful.all():
        _read(bench, trials, prompts, harmful)
    return sorted(trials, key=_order)


def _same_opening(one: Trial, other: Trial) -> bool:
    """Whether both force one opening, as several triggers of one backdoor do.

    Flips are left out, because ordinary words bring them about.
    """
    kind, ids = one.behaviour.kind, one.behaviour.ids
    return kind == "opening" and other.forces and other.behaviour.ids == ids


def _with_shorter(bench: Bench, strong: Sequence[Trial]) -> list[Trial]:
    """The strings, and the shortest part of the first one that works as well."""
    if not strong:
        return []
    first = strong[0]
    short = shortened(bench, first)
    if any(short.ids == trial.candidate.ids for trial in strong):
        return list(strong)
    trial = attempt(bench, short, first.placement)
    return [*strong, *([trial] if trial is not None else [])]


def _read(
    bench: Bench, trials: list[Trial], prompts: Sequence[Prompt], harmful: Bool[np.ndarray, " n"]
) -> None:
    """Put into trials with controls what their strings do to the meaning of requests."""
    sides = [
        [prompt for prompt in prompts if (prompt.label == "harmful") == side]
        for side in (True, False)
    ]
    if not all(sides):
        return
    with bench.subject.stage("meaning") as here:
        known = meaning(here, sides[0], sides[1], bench.held_out, harmful)
        for place, trial in enumerate(trials):
            if trial.control_share is not None:
                trials[place] = with_meaning(here, known, trial, bench.held_out)


def _counted(
    progress: Callable[[str, int, int], None] | None, before: int, all_of_them: int
) -> Callable[[int, int], None] | None:
    """The progress of one trial's control strings among those of all."""
    if progress is None:
        return None
    return lambda done, total: progress(
        "control strings", before * total + done, all_of_them * total
    )


def _order(trial: Trial) -> tuple[bool, bool, float, bool, int, int]:
    """Working first, then by rate, whole strings before parts, by how often leaked, by length."""
    return (
        not trial.works,
        not trial.forces,
        -round(trial.rate, 2),
        trial.candidate.source.endswith("shortened"),
        -trial.candidate.support,
        len(trial.candidate.ids),
    )
