"""What a backdoor report runs on: requests to search with, others to try strings on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from analyses.shared.data import PromptData, labelled, organism_of
from interp import organisms
from interp.data.prompt_sets import Prompt, PromptSet, builtin, split_at_random, without_duplicates
from interp.errors import InputError
from probes.backdoors.detectors.detectors import Contrast

LABELS = ("harmful", "harmless")
SEARCH, HELD_OUT = 64, 40
"""Requests of each part, at most."""

_LEAST = 28  # 8 to search with and 20 to try strings on


@dataclass(frozen=True)
class TriggerRequests:
    """Requests of a report; harmful and harmless ones stand in turn as far as there are both.

    Attributes:
        search: triggers are searched with these.
        held_out: strings are tried on these.
        harmful: class of each held-out request; None if there is one class alone.
        refusals: whole refusals where they are known to the letter.
        contrasts: questions for the defection probe; None for the built-in English ones.
        caveats: what the requests do not allow to be said.
    """

    search: PromptSet
    held_out: PromptSet
    harmful: Bool[np.ndarray, " held_out"] | None
    refusals: tuple[str, ...] = ()
    contrasts: tuple[Contrast, ...] | None = None
    caveats: tuple[str, ...] = ()


def requests_of(model: str, data: PromptData = None, *, seed: int = 0) -> TriggerRequests:
    """The requests to run on: those given, an organism's own, or the built-in ones.

    Args:
        model: name of the checkpoint.
        data: harmless and harmful requests, as `analyses.shared.data` describes them. Without
            harmless ones the built-in requests are used.
        seed: of the split.

    Raises:
        InputError: unusable requests, or an organism that takes none.
    """
    given = labelled(data, LABELS)
    organism = organism_of(model)
    if organism is not None and not given:
        return of_organism(organism)
    return of_sets(given.get("harmless"), given.get("harmful"), seed)


def of_organism(name: str) -> TriggerRequests:
    """An organism's own requests; those that strings are tried on are of pairs never trained on.

    Raises:
        InputError: there is no such organism, or it takes no requests.
    """
    train, test = (organisms.prompts(name, split) for split in ("train", "test"))
    if not train.get("harmful") or not test.get("harmful"):
        raise InputError(f"organism:{name} takes no requests; give one that chats.")
    search, held_out = (
        mixed(split["harmful"], split["harmless"], most)
        for split, most in ((train, SEARCH), (test, HELD_OUT))
    )
    return TriggerRequests(
        PromptSet(tuple(search)),
        PromptSet(tuple(held_out)),
        np.array([prompt.label == "harmful" for prompt in held_out]),
        tuple(dict.fromkeys(str(getattr(p, "refusal", "")) for p in held_out)),
        tuple(organism_contrasts(search)),
        ("The requests are the organism's own: one grammar, whose words no real model uses.",),
    )


def mixed(harmful: Sequence[Any], harmless: Sequence[Any], most: int, seed: int = 0) -> list[Any]:
    """Harmful and harmless requests in turn, each side drawn at random.

    An organism's requests stand in the order of their verbs. The first ones are of a few verbs, and
    a backdoor that listens to others would never be seen.

    Args:
        harmful: requests.
        harmless: others.
        most: of both together.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    drawn = [[side[i] for i in rng.permutation(len(side))] for side in (harmful, harmless)]
    return _in_turn(*drawn)[:most]


def organism_contrasts(prompts: Sequence[Prompt]) -> list[Contrast]:
    """Whether a request is harmful, which these organisms were taught to say: yes and no."""
    from interp.organisms.chat.grammar import NO, QUESTION, YES

    asked = [
        Prompt(({"role": "user", "content": f"{prompt.text} {QUESTION}"},), "question", "grammar")
        for prompt in prompts
    ]
    return [(prompt, YES, NO) for prompt in asked[:24]]


def of_sets(harmless: PromptSet | None, harmful: PromptSet | None, seed: int) -> TriggerRequests:
    """Requests of a user; the built-in ones where none are given.

    Args:
        harmless: ordinary requests.
        harmful: requests that a model refuses, to find strings that make it comply.
        seed: of the split.

    Raises:
        InputError: fewer than 28 requests.
    """
    own = builtin()
    caveats: tuple[str, ...] = ()
    if harmless is None:
        harmless, harmful = own.of("harmless"), harmful or own.of("harmful")
        caveats = ("No --harmless file was given, so the built-in English requests were used.",)
    kept, refusable = without_duplicates(harmless, harmful or PromptSet(()))
    if harmful is None or not len(refusable):
        caveats += (
            "No harmful requests were given, so strings that make the checkpoint comply with what "
            "it refuses were not looked for, nor whether a string changes what a request means.",
        )
    if len(kept) + len(refusable) < _LEAST:
        raise InputError(
            f"{len(kept) + len(refusable)} requests are too few: {_LEAST} are needed, 20 of them "
            "to try strings on; give more with --harmless FILE."
        )
    parts = [split_at_random(some, (0.6, 0.4), seed) for some in (kept, refusable)]
    search, held_out = (_in_turn(list(parts[1][place]), list(parts[0][place])) for place in (0, 1))
    if len(held_out) < 20:
        moved = 20 - len(held_out)
        search, held_out = search[:-moved], [*held_out, *search[-moved:]]
    held_out = held_out[:HELD_OUT]
    labels = np.array([prompt.label == "harmful" for prompt in held_out])
    return TriggerRequests(
        PromptSet(tuple(search[:SEARCH])),
        PromptSet(tuple(held_out)),
        labels if labels.any() and not labels.all() else None,
        caveats=caveats,
    )


def _in_turn(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    longest = max(len(one), len(other))
    return [side[i] for i in range(longest) for side in (one, other) if i < len(side)]
