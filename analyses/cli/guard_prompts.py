"""Which prompts a guard is fitted on, set, calibrated and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analyses.shared.data import labelled, organism_of, with_builtin
from interp import organisms
from interp.data.prompt_sets import (
    PromptSet,
    equalise,
    split_at_random,
    without_duplicates,
)
from interp.errors import InputError
from probes.guards.threshold import benign_halves

_LABELS = ("harmful", "harmless", "benign")
_SHARES = (0.5, 0.2, 0.3)  # fitted on, calibrated on, tested on
_SURFACE = 0.6  # AUROC above which the surface is worth a word
# Benign traffic of an organism: not its jailbreaks and triggers, which are attacks.
_ORDINARY = ("harmless", "alarming", "distracted")


@dataclass(frozen=True)
class GuardPrompts:
    """Prompts by their use; no text is in two of fitted, calibrating and test.

    `benign` sets and confirms the threshold; None if there is too little of it. What confirms it
    is among `test_benign`, unless it is calibrated on. `surface` is what equalising did to prompts
    of files: how many were dropped, and the AUROC of length and final mark before and after.
    """

    harmful: PromptSet
    harmless: PromptSet
    benign: PromptSet | None
    calibrating_harmful: PromptSet
    calibrating_harmless: PromptSet
    test_harmful: PromptSet
    test_benign: PromptSet
    template: dict[str, Any] = field(default_factory=dict)
    surface: dict[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()


def guard_prompts(
    model: str,
    harmful: Sequence[str] | None,
    harmless: Sequence[str] | None,
    benign: Sequence[str] | None,
    *,
    fpr: float | None,
    insist: bool,
    seed: int,
    limit: int | None,
    equal: bool = True,
) -> GuardPrompts:
    """The prompts of files, of an organism, or the built-in ones.

    Args:
        model: an organism brings prompts, with splits, of its own.
        harmful: files.
        harmless: files.
        benign: files.
        fpr: wanted false-positive rate; None for a fixed threshold.
        insist: too few benign prompts are an error even if they are an organism's own.
        seed: of the parts and halves.
        limit: first prompts of each label.
        equal: equalise final marks and lengths of harmful and harmless prompts of files.

    Raises:
        InputError: one class without the other, an empty class, or too few benign prompts.
    """
    if bool(harmful) != bool(harmless):
        raise InputError(
            "give both --harmful and --harmless, or neither: prompts of one source against those "
            "of another would be told apart by their source."
        )
    given = labelled({"harmful": harmful, "harmless": harmless, "benign": benign}, _LABELS)
    organism = organism_of(model)
    if "harmful" in given:
        chosen = _of_files(given["harmful"] + given["harmless"], equal, seed, limit)
    elif organism is not None:
        chosen = _organism(organism, limit)
    else:
        own = with_builtin({}, "harmful", "harmless")
        chosen = _separated(own["harmful"], own["harmless"], seed, limit)
    chosen = _cautioned(chosen, _surface(chosen.harmful, chosen.harmless, "of the fit"))
    if "benign" in given:
        chosen = _with_benign(chosen, _first(given["benign"], limit), fpr, seed)
        return _cautioned(
            chosen, _surface(chosen.test_harmful, chosen.test_benign, "and benign ones of the test")
        )
    return _with_own(chosen, fpr, insist, seed)


def _with_own(chosen: GuardPrompts, fpr: float | None, insist: bool, seed: int) -> GuardPrompts:
    """With the organism's own benign prompts if there are enough, else with a caveat."""
    if chosen.benign is not None:
        try:
            return _with_benign(chosen, chosen.benign, fpr, seed)
        except InputError:
            if insist:
                raise
    elif insist:
        raise InputError(
            f"--fpr {fpr} needs benign prompts to set the threshold on; give --benign FILE."
        )
    caveat = (
        "The threshold is 0, where both classes are equally near, and no false-positive rate is "
        "known for traffic: give --benign FILE with at least 6 / FPR prompts."
    )
    return replace(chosen, benign=None, caveats=(*chosen.caveats, caveat))


def _with_benign(
    chosen: GuardPrompts, benign: PromptSet, fpr: float | None, seed: int
) -> GuardPrompts:
    """Benign prompts on which the threshold is not set are test prompts too."""
    fitted = chosen.harmful + chosen.harmless
    _, confirming = benign_halves(benign, fitted, fpr, seed)
    used = chosen.calibrating_harmful + chosen.calibrating_harmless
    _, test, further = without_duplicates(used, chosen.test_benign, confirming)
    return replace(chosen, benign=benign, test_benign=test + further)


def _cautioned(chosen: GuardPrompts, caveats: Sequence[str]) -> GuardPrompts:
    return replace(chosen, caveats=(*chosen.caveats, *caveats))


def _surface(harmful: PromptSet, harmless: PromptSet, which: str) -> list[str]:
    """What surface alone tells of the classes; t_inst may be the very mark that differs."""
    sides = {"harmful": harmful, "harmless": harmless}
    both = [replace(prompt, label=label) for label, side in sides.items() for prompt in side]
    told = equalise(PromptSet(tuple(both)), final_punctuation=False, length=False)
    return [
        f"{what} alone tells the harmful from the harmless prompts {which} with an AUROC of "
        f"{value:.2f}, so part of what is measured may be that."
        for what, value in (("A final mark", told.mark_auroc[0]), ("Length", told.length_auroc[0]))
        if value > _SURFACE
    ]


def _of_files(prompts: PromptSet, equal: bool, seed: int, limit: int | None) -> GuardPrompts:
    """Prompts of files, freed from surface differences unless that is switched off."""
    if not equal:
        return _separated(prompts.of("harmful"), prompts.of("harmless"), seed, limit)
    (different,) = without_duplicates(prompts)
    if len(different.labels) < 2:
        raise InputError(
            "the --harmful and --harmless files hold the same prompts, which leave a class without "
            "a prompt; give files that differ."
        )
    freed = equalise(different)
    made = _separated(freed.prompts.of("harmful"), freed.prompts.of("harmless"), seed, limit)
    surface = {
        "dropped": freed.dropped,
        "length_auroc": list(freed.length_auroc),
        "mark_auroc": list(freed.mark_auroc),
    }
    told = " and ".join(f"{count} {label}" for label, count in freed.dropped.items())
    caveat = (
        f"Final marks are stripped from harmful and harmless prompts, and lengths matched: {told} "
        "prompts without a match are left out (--no-equalise keeps them). Benign traffic stays as "
        "it is."
    )
    return _cautioned(replace(made, surface=surface), [caveat])


def _separated(
    harmful: PromptSet, harmless: PromptSet, seed: int, limit: int | None
) -> GuardPrompts:
    parts = split_at_random(_first(harmful, limit) + _first(harmless, limit), _SHARES, seed)
    for name, part in zip(("fit", "calibrate", "test"), parts, strict=True):
        if set(part.labels) != {"harmful", "harmless"}:
            raise InputError(
                f"{len(harmful)} harmful and {len(harmless)} harmless prompts (fewer with --limit) "
                f"leave a class without a prompt to {name} on; give at least 10 of each, of like "
                "lengths, or leave lengths unequal with --no-equalise."
            )
    (fit_harmful, fit_harmless), calibrating, test = (
        (part.of("harmful"), part.of("harmless")) for part in parts
    )
    caveat = (
        "Fit and test prompts come from the same sources; on prompts of other sources the figures "
        "are lower more often than not."
    )
    return GuardPrompts(fit_harmful, fit_harmless, None, *calibrating, *test, caveats=(caveat,))


def _organism(name: str, limit: int | None) -> GuardPrompts:
    """An organism's own prompts; its splits share no pair of verb and object."""
    splits = {
        split: {
            label: _first(PromptSet(tuple(prompts)), limit)
            for label, prompts in organisms.prompts(name, split).items()
        }
        for split in ("train", "validation", "test")
    }
    fitted, validation, test = splits.values()
    thinks = fitted["harmful"].prompts[0].enable_thinking  # type: ignore[attr-defined]
    benign = fitted.get("alarming", PromptSet(())) + _ordinary(validation)
    return GuardPrompts(
        fitted["harmful"],
        fitted["harmless"],
        benign,
        validation["harmful"],
        validation["harmless"],
        test["harmful"],
        _ordinary(test),
        {"enable_thinking": thinks},
    )


def _ordinary(prompts: dict[str, PromptSet]) -> PromptSet:
    made = PromptSet(())
    for label in _ORDINARY:
        made += prompts.get(label, PromptSet(())).where(_is_harmless)
    return made


def _is_harmless(prompt: Any) -> bool:
    return not prompt.harmful


def _first(prompts: PromptSet, limit: int | None) -> PromptSet:
    return prompts if limit is None else PromptSet(prompts.prompts[:limit])
