"""Parts of a user's prompts: whole sources are held out where a label has several."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from interp.data.prompt_sets import PromptSet, split_at_random, split_by_source
from interp.errors import InputError

Split = Literal["source", "random"]


@dataclass(frozen=True)
class Parts:
    """Prompts to fit on and those held out, and how they were separated.

    Attributes:
        sets: the part to fit on, then those held out.
        how: they were split, by label, in words.
    """

    sets: tuple[PromptSet, ...]
    how: dict[str, str]


def require_split(name: str) -> Split:
    """Check the name of a way to split.

    Raises:
        InputError: there is no such way.
    """
    for known in get_args(Split):
        if name == known:
            return known
    raise InputError(f"a split by {name!r} is not possible; give source or random.")


def split_by_label(prompts: PromptSet, shares: Sequence[float], split: Split, seed: int) -> Parts:
    """Split prompts, label by label.

    By source, the held-out parts of a label get whole sources of their own, whose share comes as
    near as possible to what is wanted, and share these at random. A label of one source is split
    at random, and so is everything with `random`.

    Args:
        prompts: without duplicates.
        shares: of the part to fit on and of those held out; they sum to 1.
        split: by source where that is possible, or at random.
        seed: of all choices.
    """
    sets = [PromptSet(()) for _ in shares]
    how = {}
    for label in prompts.labels:
        own = prompts.of(label)
        held = _held(own, 1 - shares[0], seed) if split == "source" else ()
        if held:
            fitted, others = split_by_source(own, held)
            rest = [share / sum(shares[1:]) for share in shares[1:]]
            own_parts = (fitted, *split_at_random(others, rest, seed))
            how[label] = f"held out: {', '.join(held)}"
        else:
            own_parts = split_at_random(own, shares, seed)
            how[label] = f"at random within {', '.join(own.sources)}"
        sets = [one + other for one, other in zip(sets, own_parts, strict=True)]
    return Parts(tuple(sets), how)


def _held(prompts: PromptSet, wanted: float, seed: int) -> tuple[str, ...]:
    """Sources to hold out; none where there is only one.

    They come in an order that depends on their names alone, so that a source that has several
    labels tends to be held out for all of them.
    """
    order = sorted(prompts.sources, key=lambda name: _rank(name, seed))
    counts = Counter(prompt.source for prompt in prompts)
    shares = np.cumsum([counts[name] for name in order])[:-1] / len(prompts)
    if not len(shares):
        return ()
    return tuple(order[: int(np.argmin(np.abs(shares - wanted))) + 1])


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
