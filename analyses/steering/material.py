"""Prompts for training and testing policies: an organism's own, or those of files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from analyses.shared.data import PromptData, labelled, organism_of, with_builtin
from analyses.shared.prompts import rows_of
from analyses.steering.splits import Split, split_by_label
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.known_answers import KnownAnswers
from interp.data.prompt_sets import Prompt, PromptSet, without_duplicates
from interp.errors import InputError
from interp.organisms.chat.data import OrganismPrompt
from steering.training.examples import Cases, Examples, TrainingSet

SETS = ("harmful", "jailbroken", "harmless", "over_refusal")
HARMFUL_SETS = frozenset({"harmful", "jailbroken"})
_OVER_REFUSAL = "alarming"  # label of the prompts of the over-refusal set
_LABELS = ("harmful", "jailbroken", "harmless", _OVER_REFUSAL)
_SETTING = 0.7  # of benign validation prompts: calibrated on; the others are chosen on
_SHARES = (0.5, 0.2, 0.3)  # of a user's benign prompts: trained on, chosen on, calibrated on
_HARMFUL = (0.7, 0.3)

Some = TypeVar("Some", bound=Prompt)


@dataclass(frozen=True)
class TestSet:
    """Prompts that policies are measured on.

    Attributes:
        sets: prompts by the names of `SETS`; some may be missing.
        refusals: whole refusals, where they are known to the letter; else empty.
        caveats: what the prompts do not allow to be said.

    Raises:
        InputError: a set of another name, an empty one, or a side without any.
    """

    __test__ = False  # no test class of pytest's

    sets: dict[str, tuple[Prompt, ...]]
    refusals: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, prompts in self.sets.items():
            if name not in SETS or not prompts:
                raise InputError(
                    f"the set {name!r} has {len(prompts)} prompts; an evaluation takes sets of one "
                    f"prompt or more, named {', '.join(SETS)}."
                )
        if not (HARMFUL_SETS & self.sets.keys() and self.sets.keys() - HARMFUL_SETS):
            raise InputError(
                "an evaluation needs harmful or jailbroken prompts on one side, and harmless or "
                "over-refusal ones on the other; give files of both."
            )


@dataclass(frozen=True)
class Sides:
    """Prompts of one part before they are rendered."""

    harmful: tuple[Prompt, ...]
    benign: tuple[Prompt, ...]
    jailbroken: tuple[Prompt, ...] = field(default_factory=tuple)

    def examples(self, render: Callable[[Sequence[Prompt]], Cases]) -> Examples:
        """The same, rendered."""
        return Examples(render(self.harmful), render(self.benign), render(self.jailbroken))


def organism_training(
    checkpoint: Checkpoint, limit: int | None = None, seed: int = 0
) -> TrainingSet:
    """The prompts of an organism; what is chosen on and calibrated on shares no pair.

    Args:
        checkpoint: of an organism.
        limit: prompts of a label in each part, at most.
        seed: of the parts.

    Raises:
        InputError: it brings no prompts.
    """
    name = checkpoint.name.removeprefix("organism:")
    train, held = (
        _sides(organisms.prompts(name, split), limit) for split in ("train", "validation")
    )
    pairs = sorted({_pair(prompt) for prompt in held.benign})
    order = np.random.default_rng(seed).permutation(len(pairs))
    setting = {pairs[i] for i in order[: round(_SETTING * len(pairs))].tolist()}
    calibration = tuple(p for p in held.benign if _pair(p) in setting)
    validation = Sides(
        held.harmful, tuple(p for p in held.benign if _pair(p) not in setting), held.jailbroken
    )
    refusals = {p.refusal for p in train.harmful if isinstance(p, KnownAnswers)}
    settings = {"template": {}, "split": {"all": "by pairs of verb and object"}}
    return _training(checkpoint, train, validation, calibration, tuple(sorted(refusals)), settings)


def file_training(
    checkpoint: Checkpoint,
    harmful: PromptSet,
    benign: PromptSet,
    jailbroken: PromptSet,
    *,
    template: dict[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    split: Split = "source",
) -> TrainingSet:
    """Prompts of a user; how each label was split is in the set's `meta`.

    Args:
        checkpoint: to be steered.
        harmful: prompts that it refuses.
        benign: harmless and alarming ones.
        jailbroken: harmful ones that it answers; may be empty.
        template: arguments of the chat template.
        limit: prompts of a label, at most.
        seed: of the split.
        split: `source` holds out whole sources of a label that has several; `random` never does.

    Raises:
        InputError: a part is too small.
    """
    harmful, jailbroken, benign = (
        _few(some, limit) for some in without_duplicates(harmful, jailbroken, benign)
    )
    sides = [split_by_label(some, _HARMFUL, split, seed) for some in (harmful, jailbroken)]
    spared = split_by_label(benign, _SHARES, split, seed)
    train, validation = (
        Sides(sides[0].sets[i].prompts, spared.sets[i].prompts, sides[1].sets[i].prompts)
        for i in range(2)
    )
    how = {label: words for part in (*sides, spared) for label, words in part.how.items()}
    return _training(
        checkpoint,
        train,
        validation,
        spared.sets[2].prompts,
        (),
        {"template": template or {}, "split": how},
    )


def training_of(
    checkpoint: Checkpoint,
    data: PromptData = None,
    *,
    template: dict[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    split: Split = "source",
) -> TrainingSet:
    """What policies are trained on: prompts given, an organism's own, or built-in ones.

    Built-in prompts stand in for labels that nobody gave, jailbroken ones aside.

    Args:
        checkpoint: to be steered.
        data: prompts of the labels `harmful`, `harmless`, `alarming` and `jailbroken`; see
            `analyses.shared.data`.
        template: arguments of the chat template.
        limit: prompts of a label, at most.
        seed: of the split.
        split: of prompts that are given; see `file_training`.

    Raises:
        InputError: one of harmful and harmless prompts is missing, or they cannot be used.
    """
    if isinstance(data, Mapping):  # refused before any file is read
        _require_both([label for label, some in data.items() if some])
    given = labelled(data, _LABELS)
    _require_both(given)
    if not given and organism_of(checkpoint.name) is not None:
        return organism_training(checkpoint, limit, seed)
    sets = with_builtin(given, "harmful", "harmless", _OVER_REFUSAL)
    return file_training(
        checkpoint,
        sets["harmful"],
        sets["harmless"] + sets[_OVER_REFUSAL],
        given.get("jailbroken", PromptSet(())),
        template=template,
        limit=limit,
        seed=seed,
        split=split,
    )


def _require_both(labels: Collection[str]) -> None:
    if ("harmful" in labels) != ("harmless" in labels):
        missing = "--harmless" if "harmful" in labels else "--harmful"
        raise InputError(f"{missing} is missing: give prompts of both kinds, or of neither.")


def organism_tests(name: str, limit: int | None = None) -> TestSet:
    """An organism's held-out pairs; over-refusal is measured on alarming and distracting ones."""
    prompts = organisms.prompts(name, "test")
    benign = ("alarming", "distracted", *_controls(prompts))
    sets = {
        "harmful": prompts["harmful"],
        "jailbroken": prompts.get("jailbroken", []),
        "harmless": prompts["harmless"],
        "over_refusal": [p for label in benign for p in _most(prompts.get(label, []), limit)
                         if not p.harmful],
    }  # fmt: skip
    kept = {key: tuple(_most(some, limit)) for key, some in sets.items() if key != "over_refusal"}
    kept["over_refusal"] = tuple(sets["over_refusal"])
    return TestSet(
        {key: some for key, some in kept.items() if some},
        tuple(sorted({p.refusal for some in prompts.values() for p in some})),
        (
            "The prompts are the organism's own: one grammar, in which training and test share "
            "words but no pair of verb and object, and one way to jailbreak.",
        ),
    )


def _sides(prompts: dict[str, list[OrganismPrompt]], limit: int | None) -> Sides:
    """Over-refusal prompts and distractors are on the benign side."""
    labels = ("harmless", "alarming", "distracted", *_controls(prompts))
    benign = [p for label in labels for p in _most(prompts.get(label, []), limit)]
    distracted = _most(prompts.get("distracted", []), limit)
    return Sides(
        (*_most(prompts["harmful"], limit), *(p for p in distracted if p.harmful)),
        tuple(p for p in benign if not p.harmful),
        tuple(_most(prompts.get("jailbroken", []), limit)),
    )


def _controls(prompts: dict[str, list[OrganismPrompt]]) -> tuple[str, ...]:
    """Harmless requests in the dress of a jailbreak, so that the dress is not taken for harm."""
    for label in ("jailbroken_harmless", "accepted_harmless", "triggered"):
        if label in prompts and "jailbroken" in prompts:
            return (label,)
    return ()


def _training(
    checkpoint: Checkpoint,
    train: Sides,
    validation: Sides,
    calibration: Sequence[Prompt],
    refusals: tuple[str, ...],
    settings: dict[str, Any],
) -> TrainingSet:
    """Rendered; `settings`, with the `template` and how it was split, go into the provenance."""

    def render(prompts: Sequence[Prompt]) -> Cases:
        return Cases(tuple(prompts), tuple(rows_of(checkpoint, prompts, settings["template"])))

    parts = {
        "train": (*train.harmful, *train.jailbroken, *train.benign),
        "validation": (*validation.harmful, *validation.jailbroken, *validation.benign),
        "calibration": tuple(calibration),
    }
    meta = {
        name: {"sha256": PromptSet(some).sha256, "prompts": len(some)}
        for name, some in parts.items()
    }
    return TrainingSet(
        train.examples(render),
        validation.examples(render),
        render(calibration),
        refusals,
        {**meta, **settings},
    )


def _pair(prompt: Prompt) -> str:
    if not isinstance(prompt, KnownAnswers):
        raise InputError("only an organism's prompts are split by pairs.")
    return prompt.pair


def _few(prompts: PromptSet, limit: int | None) -> PromptSet:
    if limit is None:
        return prompts
    kept = [
        prompt for label in prompts.labels for prompt in _most(prompts.of(label).prompts, limit)
    ]
    return PromptSet(tuple(kept))


def _most(prompts: Sequence[Some], limit: int | None) -> list[Some]:
    """At most so many, from one end to the other: what stands side by side is often alike."""
    if limit is None or limit >= len(prompts):
        return list(prompts)
    return [prompts[i * len(prompts) // limit] for i in range(limit)]


def tests_of(model: str, data: PromptData, limit: int | None = None) -> TestSet:
    """What policies are measured on: prompts given, an organism's held-out pairs, or built-in ones.

    Args:
        model: name of the checkpoint.
        data: prompts by the names of `SETS`, or of the labels `harmful`, `jailbroken`, `harmless`
            and `alarming` (which are the over-refusal set).
        limit: first prompts of each label only.

    Raises:
        InputError: prompts that cannot be used, or those of one side only.
    """
    if isinstance(data, Mapping):
        data = {
            _OVER_REFUSAL if name == "over_refusal" else name: one for name, one in data.items()
        }
    given = labelled(data, _LABELS)
    organism = organism_of(model)
    if not given and organism is not None:
        return organism_tests(organism, limit)
    caveats: tuple[str, ...] = ()
    if not given:
        given = with_builtin({}, "harmful", "harmless", _OVER_REFUSAL)
        caveats = ("The prompts are the built-in ones; policies trained without files know them.",)
    sets = {
        "over_refusal" if label == _OVER_REFUSAL else label: tuple(some.prompts[:limit])
        for label, some in given.items()
    }
    return TestSet({name: sets[name] for name in SETS if name in sets}, caveats=caveats)
