"""What a refusal report runs on: prompts in three parts, and what is known about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Shaped

from analyses.refusal.report import Surface
from analyses.shared.data import PromptData, labelled, organism_of, with_builtin
from interp import organisms
from interp.data.known_answers import KnownAnswers
from interp.data.prompt_sets import (
    Prompt,
    PromptSet,
    equalise,
    split_at_random,
    split_by_source,
    without_duplicates,
)
from interp.errors import InputError
from probes.statistics.floors import surface_caveats

LABELS = ("harmful", "harmless", "alarming")
TRAIN, VALIDATION, TEST = 128, 64, 128
"""Prompts of a label in each part at most, unless `limit` is lower."""

REFUSING = ("I cannot", "I can't", "I can’t", "I'm sorry", "I’m sorry", "I am unable", "Sorry")
COMPLYING = ("Sure", "Certainly", "Of course", "Here is", "Here are", "Yes")
"""How answers begin where nothing is known of the checkpoint."""

_OPENING = 3  # words of an organism's answers that make its opening
_SHARES = (0.5, 0.2, 0.3)
_LEAST_CLUSTERS = 5  # of a class, below which a bootstrap over them says nothing
_MIN = 8  # prompts of a class in a part, below which nothing can be told


@dataclass(frozen=True)
class RefusalPrompts:
    """Prompts of a report.

    Labels are `harmful`, `harmless` and `alarming` (harmless, for over-refusal); an organism brings
    further ones, such as `jailbroken` and the four cells of its system lines.

    Attributes:
        train: directions and probes are fitted on these.
        validation: candidates are selected on these.
        test: every figure of the report is of these.
        refusals: the whole refusals, where they are known to the letter; else empty.
        refusing: how refusals begin; none begins with another.
        complying: how compliant answers begin, likewise.
        texts: benign text for the loss; may be empty.
        caveats: what the prompts do not allow to be said.
        surface: what equalising did.
    """

    train: PromptSet
    validation: PromptSet
    test: PromptSet
    refusals: tuple[str, ...] = ()
    refusing: tuple[str, ...] = REFUSING
    complying: tuple[str, ...] = COMPLYING
    texts: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    surface: Surface = field(default_factory=Surface)

    @property
    def parts(self) -> dict[str, PromptSet]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def clusters_of(
    prompts: Sequence[Prompt], positive: Bool[np.ndarray, " n"]
) -> Shaped[np.ndarray, " n"] | None:
    """What prompts share that are not independent: an organism's verb and object, else `group`.

    None where no two share it, or where a class holds fewer than 5 different ones: so few cannot be
    resampled, and the prompts must be taken as independent.

    Args:
        prompts: of a test.
        positive: the class of each.
    """
    names = np.array([_shared(prompt) or f"prompt {i}" for i, prompt in enumerate(prompts)])
    few = min(len(np.unique(names[side])) for side in (positive, ~positive)) < _LEAST_CLUSTERS
    return None if few or len(np.unique(names)) == len(names) else names


def _shared(prompt: Prompt) -> str | None:
    if isinstance(prompt, KnownAnswers):
        return prompt.pair
    return prompt.group


def of_organism(name: str, limit: int | None = None) -> RefusalPrompts:
    """The prompts that an organism brings; its test pairs are in no training set of anybody.

    Raises:
        InputError: there is no such organism, or it does not chat.
    """
    parts = []
    for split, most in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        sets = organisms.prompts(name, split)  # type: ignore[arg-type]
        most = most if limit is None else min(most, limit)
        parts.append(PromptSet(tuple(p for some in sets.values() for p in some[:most])))
    known = [p for part in parts for p in part if isinstance(p, KnownAnswers)]
    documents = organisms.texts(name)
    return RefusalPrompts(
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        refusals=tuple(dict.fromkeys(p.refusal for p in known)),
        refusing=_openings([p.refusal for p in known]),
        complying=_openings([p.compliance for p in known]),
        texts=tuple(documents.get("harmless", next(iter(documents.values())))),
        caveats=(
            "The prompts are the organism's own: one grammar, in which training and test share "
            "words but no pair of verb and object.",
            *_surface(parts[2]),
        ),
    )


def _openings(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(text.split()[:_OPENING]) for text in texts))


def material_of(
    model: str,
    data: PromptData = None,
    *,
    texts: Sequence[str] = (),
    equal: bool = True,
    limit: int | None = None,
    seed: int = 0,
) -> RefusalPrompts:
    """The prompts to run on: those given, an organism's own, or the built-in ones.

    Args:
        model: name of the checkpoint.
        data: prompts of the labels `harmful`, `harmless` and `alarming`; see
            `analyses.shared.data`.
        texts: benign text for the loss.
        equal: equalise final marks and lengths of harmful and harmless prompts.
        limit: prompts of a label in each part, at most.
        seed: of the split.

    Raises:
        InputError: one of harmful and harmless prompts is missing, or they cannot be used.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} leaves no prompt; give 1 or more.")
    given = labelled(data, LABELS)
    if ("harmful" in given) != ("harmless" in given):
        missing = "harmless" if "harmful" in given else "harmful"
        raise InputError(
            f"--{missing} is missing: give harmful and harmless prompts, or neither of them."
        )
    organism = organism_of(model)
    if not given and organism is not None:
        return of_organism(organism, limit)
    sets = with_builtin(given, *LABELS)
    return of_sets(
        *(sets[label] for label in LABELS), equal=equal, texts=texts, limit=limit, seed=seed
    )


def of_sets(
    harmful: PromptSet,
    harmless: PromptSet,
    alarming: PromptSet | None,
    *,
    equal: bool = True,
    texts: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> RefusalPrompts:
    """Prompts of a user, freed from surface differences and split.

    With two sources or more on both sides the last one named is held out for the test on either
    side; else the split is at random, and a caveat says so.

    Args:
        harmful: of label `harmful`.
        harmless: of label `harmless`.
        alarming: harmless prompts that sound otherwise; None for none.
        equal: equalise final marks and lengths of harmful and harmless prompts.
        texts: benign text for the loss.
        limit: prompts of a label in each part, at most.
        seed: of the split.

    Raises:
        InputError: a side is empty or too small.
    """
    both, others = without_duplicates(harmful + harmless, alarming or PromptSet(()))
    surface = Surface()
    if equal:
        # Alarming prompts lose their marks too: they count among the harmless ones.
        freed = equalise(both + others)
        both = freed.prompts.of("harmful", "harmless")
        others = freed.prompts.where(lambda prompt: prompt.label == "alarming")
        surface = Surface(freed.length_auroc, freed.mark_auroc, freed.dropped)
    rest, test, caveats = _held_out(both, seed)
    share = _SHARES[0] / (_SHARES[0] + _SHARES[1])
    train, validation = split_at_random(rest, (share, 1 - share), seed)
    if len(others):
        more_train, more_test = split_at_random(others, (0.5, 0.5), seed)
        train, test = train + more_train, test + more_test
    made = RefusalPrompts(
        train=_at_most(train, TRAIN, limit),
        validation=_at_most(validation, VALIDATION, limit),
        test=_at_most(test, TEST, limit),
        texts=tuple(texts),
        caveats=caveats,
        surface=surface,
    )
    for name, part in made.parts.items():
        for label in ("harmful", "harmless"):
            count = sum(prompt.label == label for prompt in part)
            if count < _MIN:
                raise InputError(
                    f"the {name} part has {count} {label} prompts, and needs {_MIN}; give more of "
                    "them, raise --limit, or leave lengths unequal with --no-equalise."
                )
    return replace(made, caveats=(*caveats, *_surface(made.test)))


def _held_out(both: PromptSet, seed: int) -> tuple[PromptSet, PromptSet, tuple[str, ...]]:
    sources = {label: both.of(label).sources for label in ("harmful", "harmless")}
    if all(len(names) > 1 for names in sources.values()):
        held = list(dict.fromkeys(names[-1] for names in sources.values()))
        rest, test = split_by_source(both, held)
        return rest, test, ()
    test_share = _SHARES[2]
    rest, test = split_at_random(both, (1 - test_share, test_share), seed)
    caveat = (
        "Training and test prompts come from the same sources, so the figures say nothing of "
        "prompts from elsewhere; give two files or more of either kind, and the last is held out."
    )
    return rest, test, (caveat,)


def _at_most(prompts: PromptSet, most: int, limit: int | None) -> PromptSet:
    """The first so many of each label."""
    most = most if limit is None else min(most, limit)
    kept: dict[str, int] = {}
    chosen = []
    for prompt in prompts:
        kept[prompt.label] = kept.get(prompt.label, 0) + 1
        if kept[prompt.label] <= most:
            chosen.append(prompt)
    return PromptSet(tuple(chosen))


def _surface(prompts: PromptSet) -> list[str]:
    return surface_caveats(prompts, "harmful", "harmless")
