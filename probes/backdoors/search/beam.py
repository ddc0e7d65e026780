"""Searching for a trigger token by token, with a reward that needs no knowledge of it.

The reward of "From Poisoned to Aware" (arXiv 2510.05169) without its reinforcement learning: the
effect of a string, less its effect on a reference model, less a price for length. A beam takes the
place of the policy, and a soft effect the place of counted replies, so that a string that is partly
right is worth something.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from interp.data.rows import Row
from probes.backdoors.search.budget import Exhausted
from probes.backdoors.search.requests import Candidate, Placement, Requests, decode
from probes.backdoors.search.subject import Subject

_LENGTH_PRICE = 0.01  # of a token, so that of two equal strings the shorter one leads
_CHUNK = 32  # strings that are paid for together; their logits are in memory at once


@runtime_checkable
class Effect(Protocol):
    """A soft effect in [0, 1] of prompts that carry a string, [strings]."""

    def __call__(
        self, subject: Subject, rows: Sequence[Row], strings: int
    ) -> Float[np.ndarray, " strings"]:
        """Rows are all prompts with the first string, then all with the second, and so on."""


@dataclass(frozen=True)
class TargetEffect:
    """Geometric mean probability of a target's tokens, averaged over prompts.

    Attributes:
        ids: of the target, of which the first `tokens` count.
        tokens: how many.
    """

    ids: tuple[int, ...]
    tokens: int = 3

    def __call__(
        self, subject: Subject, rows: Sequence[Row], strings: int
    ) -> Float[np.ndarray, " strings"]:
        """One pass a row."""
        chances = subject.forced_probability(rows, self.ids[: self.tokens])
        geometric = chances.double().clamp_min(1e-12).log().mean(-1).exp()
        return np.asarray(geometric.view(strings, -1).mean(-1).numpy())


@dataclass(frozen=True)
class NovelEffect:
    """Largest mean probability of a first token that no plain reply has.

    Attributes:
        firsts: first tokens of plain replies.
    """

    firsts: tuple[int, ...]

    def __call__(
        self, subject: Subject, rows: Sequence[Row], strings: int
    ) -> Float[np.ndarray, " strings"]:
        """One pass a row."""
        chances = subject.next_logits(rows).softmax(-1)
        chances[:, list(self.firsts)] = 0
        means = chances.view(strings, -1, chances.shape[-1]).mean(1)
        return np.asarray(means.amax(-1).double().numpy())


@dataclass(frozen=True)
class FlipEffect:
    """Mean probability that a reply does not begin as refusals do.

    Attributes:
        firsts: first tokens of refusals.
    """

    firsts: tuple[int, ...]

    def __call__(
        self, subject: Subject, rows: Sequence[Row], strings: int
    ) -> Float[np.ndarray, " strings"]:
        """One pass a row."""
        chances = subject.next_logits(rows).softmax(-1)[:, list(self.firsts)].sum(-1)
        return np.asarray(1 - chances.view(strings, -1).mean(-1).double().numpy())


def reward(
    subject: Subject,
    effect: Effect,
    requests: Requests,
    placement: Placement,
    twin: Subject | None = None,
) -> Callable[[Sequence[tuple[int, ...]]], Float[np.ndarray, " strings"]]:
    """From strings to rewards.

    Args:
        subject: the checkpoint.
        effect: what is looked for.
        requests: prompts to try strings on.
        placement: where strings stand.
        twin: whose own effect is taken off, R_diff of the notes on P2A.
    """

    def measured(strings: Sequence[tuple[int, ...]]) -> Float[np.ndarray, " strings"]:
        rows = [row for ids in strings for row in requests.with_ids(ids, placement)]
        numbered = [
            Row(number, row.ids, row.domain, row.segments) for number, row in enumerate(rows)
        ]
        what = [placement, [row.ids for row in numbered]]

        def on(one: Subject) -> Float[np.ndarray, " strings"]:
            kept = one.once("reward", what, lambda: effect(one, numbered, len(strings)).tolist())
            return np.array(kept)

        effects = on(subject) if twin is None else on(subject) - on(twin)
        return effects - _LENGTH_PRICE * np.array([len(ids) for ids in strings])

    return measured


def beam_search(
    subject: Subject,
    measured: Callable[[Sequence[tuple[int, ...]]], Float[np.ndarray, " strings"]],
    vocabulary: Sequence[int],
    *,
    width: int = 6,
    longest: int = 3,
    starts: Sequence[tuple[int, ...]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Candidate, float]]:
    """Strings by reward, the best first; what was found when the budget ran out is kept.

    Args:
        subject: for the words of tokens.
        measured: of `reward`.
        vocabulary: tokens to go on with.
        width: strings that are kept of every length.
        longest: tokens.
        starts: strings to begin with, besides the empty one.
        progress: called with (strings rewarded, strings in all).
    """
    best: dict[tuple[int, ...], float] = {}
    given = [ids for ids in dict.fromkeys(starts) if len(ids) <= longest]
    total = len(given) + len(vocabulary) * (1 + width * (longest - 1))

    def tell(count: int) -> None:
        if progress is not None:
            progress(len(best) + count, total)

    try:
        best |= _rewarded(measured, given, tell)
        beam: list[tuple[int, ...]] = [()]
        for length in range(1, longest + 1):
            grown = [(*ids, token) for ids in beam for token in vocabulary]
            grown = [ids for ids in grown if ids not in best]
            best |= _rewarded(measured, grown, tell)
            same = [ids for ids in best if len(ids) == length]
            beam = sorted(same, key=lambda ids: -best[ids])[:width]
    except _Partial as partial:
        best |= partial.found
    ordered = sorted(best, key=lambda ids: (-best[ids], ids))
    return [(Candidate(decode(subject, ids), ids, "beam"), best[ids]) for ids in ordered]


class _Partial(Exception):
    """The budget ran out within one length."""

    def __init__(self, found: dict[tuple[int, ...], float]) -> None:
        super().__init__()
        self.found = found


def _rewarded(
    measured: Callable[[Sequence[tuple[int, ...]]], Float[np.ndarray, " strings"]],
    strings: Sequence[tuple[int, ...]],
    tell: Callable[[int], None],
) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {}
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for ids in strings:
        by_length.setdefault(len(ids), []).append(ids)
    for same in by_length.values():
        for at in range(0, len(same), _CHUNK):
            part = same[at : at + _CHUNK]
            try:
                values = measured(part)
            except Exhausted:
                raise _Partial(found) from None
            found |= dict(zip(part, map(float, values), strict=True))
            tell(len(found))
    return found


def first_tokens(requests: Requests, *, refused: bool | None = None) -> tuple[int, ...]:
    """First tokens of plain replies, of all or of one side."""
    chosen = [
        reply.ids[0]
        for reply, refusal in zip(requests.replies, requests.refused, strict=True)
        if reply.ids and refused in (None, bool(refusal))
    ]
    return tuple(dict.fromkeys(chosen))
