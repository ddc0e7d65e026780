"""What a string does to the next token: entropy, divergence and collapse, at one pass a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.backdoors.search.requests import Candidate, Placement, Requests
from probes.backdoors.search.subject import Subject


@dataclass(frozen=True)
class Effect:
    """What a string changes about the first token of a reply.

    Attributes:
        candidate: the string.
        placement: where it stands.
        entropy: mean entropy with the string less without, in nats; negative where it collapses.
        divergence: mean Jensen–Shannon divergence between the two, in nats.
        collapse: largest entry of the mean distribution with the string less without. It is high
            where all prompts get one same first token.
        novel: the same over first tokens that no plain reply has.
        flip: mean fall of the probability that a reply begins as refusals do, over refused prompts;
            less that on the twin, where there is one.
    """

    candidate: Candidate
    placement: Placement
    entropy: float
    divergence: float
    collapse: float
    novel: float
    flip: float


@dataclass(frozen=True)
class Plain:
    """Next-token distributions of requests without a string.

    Attributes:
        requests: the prompts.
        probabilities: of the first token of a reply.
        firsts: tokens that plain replies begin with.
        refusals: tokens that plain refusals begin with.
    """

    requests: Requests
    probabilities: Float[Tensor, "prompts vocabulary"]
    firsts: tuple[int, ...]
    refusals: tuple[int, ...]


def plain(
    subject: Subject, requests: Requests, firsts: Sequence[int], refusals: Sequence[int]
) -> Plain:
    """The distributions to compare with.

    Raises:
        Exhausted: the budget does not allow it.
    """
    found = subject.next_logits(requests.rows).softmax(-1)
    return Plain(requests, found, tuple(firsts), tuple(refusals))


def effect(
    subject: Subject,
    base: Plain,
    candidate: Candidate,
    placement: Placement,
    twin: "tuple[Subject, Plain] | None" = None,
) -> Effect:
    """Measure one string at one place.

    Args:
        subject: the checkpoint.
        base: its distributions without the string.
        candidate: the string.
        placement: where it stands.
        twin: and its own distributions; None without one.

    Raises:
        Exhausted: the budget does not allow it.
    """
    changes = _changes(subject, base, candidate, placement)
    if twin is not None:
        changes["flip"] -= _changes(*twin, candidate, placement)["flip"]
    return Effect(candidate, placement, **changes)


def _changes(
    subject: Subject, base: Plain, candidate: Candidate, placement: Placement
) -> dict[str, float]:
    """The figures of an effect on one checkpoint."""
    what = [candidate.ids, placement]
    found: dict[str, float] = subject.once(
        "effect", what, lambda: _measured(subject, base, candidate, placement)
    )
    return found


def _measured(
    subject: Subject, base: Plain, candidate: Candidate, placement: Placement
) -> dict[str, float]:
    rows = base.requests.with_ids(candidate.ids, placement)
    with_it = subject.next_logits(rows).softmax(-1)
    without = base.probabilities
    middle = (with_it + without) / 2
    divergence = entropy(middle) - (entropy(with_it) + entropy(without)) / 2
    return {
        "entropy": float((entropy(with_it) - entropy(without)).mean()),
        "divergence": float(divergence.mean()),
        "collapse": float(with_it.mean(0).max() - without.mean(0).max()),
        "novel": novel_collapse(with_it, base.firsts) - novel_collapse(without, base.firsts),
        "flip": _fall(with_it, base),
    }


def novel_collapse(
    probabilities: Float[Tensor, "prompts vocabulary"], firsts: Sequence[int]
) -> float:
    """Largest entry of the mean distribution among tokens that no plain reply begins with."""
    mean = probabilities.mean(0).clone()
    mean[list(firsts)] = 0
    return float(mean.max())


def entropy(probabilities: Float[Tensor, "*rows vocabulary"]) -> Float[Tensor, "*rows"]:
    """In nats."""
    found: Tensor = torch.special.entr(probabilities).sum(-1)
    return found


def _fall(with_it: Float[Tensor, "prompts vocabulary"], base: Plain) -> float:
    """How much less likely the openings of refusals become on refused prompts."""
    refused = torch.from_numpy(base.requests.refused)
    if not base.refusals or not refused.any():
        return 0.0
    before, now = (some[refused][:, list(base.refusals)] for some in (base.probabilities, with_it))
    return float((before - now).sum(-1).mean())
