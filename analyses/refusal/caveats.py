"""What a refusal finding does not establish."""

from collections import Counter
from dataclasses import asdict

import numpy as np

from analyses.refusal.material import RefusalPrompts, clusters_of
from analyses.refusal.report import RefusalReport
from analyses.shared.prompts import is_harmful
from analyses.shared.reports import NotMeasured


def caveats(material: RefusalPrompts, report: RefusalReport) -> tuple[str, ...]:
    """What the prompts and the measurements do not allow to be said.

    Args:
        material: that was measured on.
        report: with all blocks; its own verdict and caveats are not read.
    """
    return tuple(
        note
        for notes in (
            _about_selection(report),
            _about_scoring(material, report),
            _about_floors(report),
            _about_cells(report),
            _about_clusters(material),
            _about_inversion(report),
            _always(),
        )
        for note in notes
    )


def _about_selection(report: RefusalReport) -> list[str]:
    direction = report.direction
    if direction.why_not is not None:
        return [
            f"No refusal direction could be selected: {direction.why_not}. Candidates are "
            "scored by the first token of answers, so nothing is ablated or added here and "
            "log-odds of refusal are left out; rates, over-refusal, and what is read of "
            "harmfulness and refusal come from whole answers and do not need it."
        ]
    ablated = report.rates.harmful.ablated
    if isinstance(direction.chosen_share, NotMeasured) or isinstance(ablated, NotMeasured):
        reasons = Counter(row.discarded for row in report.selection)
        counts = ", ".join(f"{count} by {reason}" for reason, count in reasons.items())
        return [
            f"None of the {direction.candidates} candidates passes the filters of Arditi et "
            f"al. ({counts}), so nothing is ablated or added. That does not show that no direction "
            "carries refusal: only differences in means were tried, at these layers and positions."
        ]
    notes = []
    if direction.near_ties:
        notes.append(
            f"{direction.near_ties} further candidates cannot be told from the selected one on "
            f"the validation prompts; it is chosen in {direction.chosen_share:.0%} of bootstrap "
            "resamples."
        )
    if ablated.rate > 0.5 * report.rates.harmful.base.rate:
        notes.append(
            f"With the selected direction ablated everywhere {ablated.rate:.0%} of harmful prompts "
            "are still refused whole: no single direction among the candidates carries refusal, "
            "though the log-odds of its first token, by which candidates are selected, fell."
        )
    return notes


def _about_scoring(material: RefusalPrompts, report: RefusalReport) -> list[str]:
    scorer = report.scorers.counted
    if "prefix contrast" not in report.scorers.verdicts:
        notes = ["Openings were not scored: the tokenizer cannot encode the usual ones."]
        return [*notes, *_about_scorer(material, scorer)]
    return _about_scorer(material, scorer)


def _about_scorer(material: RefusalPrompts, scorer: str) -> list[str]:
    if material.refusals:
        return [f"A refusal counts when the whole text of one is there (scorer: {scorer})."]
    return [
        f"Refusals are told by the scorer {scorer!r}; a rule on wording takes an evasion for "
        "compliance and an apology for a refusal. See how the scorers agree."
    ]


def _about_floors(report: RefusalReport) -> list[str]:
    best = max(report.separation, key=lambda one: one.auroc)
    if best.last_token_floor <= 0.6:
        return []
    return [
        f"At position {best.segment_position} the token alone tells the classes with AUROC "
        f"{best.last_token_floor:.3f}; only what lies above that floor is read from the context, "
        "and the shuffled-label null does not see such a confound."
    ]


def _about_cells(report: RefusalReport) -> list[str]:
    cells = asdict(report.harmfulness.cells.train)
    few = [name.replace("_", " ") for name, count in cells.items() if count < 8]
    if not few:
        return []
    return [
        f"There are fewer than 8 training prompts of {', '.join(few)}; with such cells thin or "
        "empty, harmfulness and refusal go together in the prompts and cannot be told apart by "
        "them."
    ]


def _about_clusters(material: RefusalPrompts) -> list[str]:
    harmful = np.array([is_harmful(prompt) for prompt in material.test])
    names = clusters_of(material.test.prompts, harmful)
    if names is not None:
        return [
            f"The {len(names)} test prompts share verb and object, or their group, so that there "
            f"are {len(set(names))} different ones: intervals of AUROCs resample these, and all "
            "other intervals take prompts as independent."
        ]
    if material.refusals:
        return []  # an organism's, of which no two share a pair
    return [
        "Intervals take prompts as independent: where several share a wording they are too narrow. "
        "A column `group` in the files of prompts, equal for those that do, has them resampled "
        "together."
    ]


def _about_inversion(report: RefusalReport) -> list[str]:
    count = report.inversion_unplaced
    if not count:
        return []
    return [
        f"In {count} requests of the inversion test the question could not be told from the "
        "request, because the tokenizer changes its text: there the direction is added to the "
        "first token of the request alone, and does less than it might."
    ]


def _always() -> list[str]:
    return [
        "Greedy decoding, one system prompt, no attack that adapts to the directions: rates under "
        "sampling, other templates or pressure may differ.",
        "A direction that is read is not thereby used; only the ablations and additions speak of "
        "causes, and they speak of this layer and this length.",
    ]
