"""Which heads carry a trigger's effect: their outputs swapped between two runs.

Each request runs with the trigger and with an inert string of as many tokens at the same place, so
that the two rows agree token by token. A head's output z (what it hands to the output projection)
is then taken from one run into the other: from the inert run into the triggered one, to see how
much of the effect is *removed* (the head is necessary), and the other way round, to see how much is
*restored* (the head is sufficient). With the triggered run as the clean one, these are noising and
denoising in the words of Heimersheim and Nanda (arXiv 2404.15255, §2), who recommend measures that
are linear in logits or log-probabilities; swapping activations is Vig et al.'s causal mediation
(arXiv 2004.12265) and Meng et al.'s causal tracing (arXiv 2202.05262, §2). That few heads carry the
backdoors of tuned models is claimed by Backdoor Attribution (arXiv 2509.21761).

The null is the same swap between two runs that both hold inert strings: nineteen of them play the
trigger in turn. What a head does there is what any change of string does, in the same model, at the
same place and on the same requests; heads of the same layer would be no such control, because more
than one of them may carry the effect, and one of every layer stands out on any model. A head is
named only if the lower end of its interval lies above the largest share that *any* head reaches
with *any* of the nineteen (by chance that happens to at most one string in twenty in either
direction, however many heads there are), and above 5 % of the effect.

Shares of single heads need not add up: heads stand in for one another, and later ones read what
earlier ones wrote. Layers of linear attention have no heads here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import InputError
from interp.statistics.intervals import Interval, Method, bootstrap, bootstrap_interval, wilson
from probes.backdoors.heads.head_swaps import SIDES, Outcome, Side, Swapped, Swaps, Where
from probes.backdoors.search.requests import Candidate, Placement, Requests
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trial import Behaviour, Kind
from probes.heads.head_ablation import Head, all_heads

STRINGS = 19
"""Inert strings that play the trigger; their largest share is passed by chance once in twenty."""

LEAST_SHARE = 0.05
"""Of the effect, that a head must carry to be named, however quiet the null is."""

REQUESTS = 20  # at most
_LEAST_REQUESTS = 8


@dataclass(frozen=True)
class Together:
    """All named heads swapped at once; they were chosen on the same requests.

    Attributes:
        removed: share of the effect, with its bootstrap interval over requests.
        restored: likewise.
        rate: of the behaviour with the trigger, with Wilson's interval.
        rate_removed: with the trigger and the heads of the inert run, likewise.
        rate_restored: in the inert runs with the heads of the triggered one, likewise.
    """

    removed: float
    removed_interval: Interval
    restored: float
    restored_interval: Interval
    rate: float
    rate_interval: Interval
    rate_removed: float
    rate_removed_interval: Interval
    rate_restored: float
    rate_restored_interval: Interval


@dataclass(frozen=True)
class HeadPatching:
    """What swapping heads between triggered and inert runs does.

    Attributes:
        heads: a row a head: layer, head, and for `removed` and `restored` each the share of the
            effect (ratio of means over requests; 1 is all of it, below 0 against it), `_low` and
            `_high` of its 95 % bootstrap interval over requests, `_null_high`, and `necessary` or
            `sufficient`: whether it is named. Empty where there is no effect to share out.
        effect: mean of the measure with the trigger less with inert strings, in nats.
        interval: of the effect, by bootstrap over requests.
        effect_null_high: the largest effect of an inert string in the trigger's place.
        together: both shares and the rates of the behaviour with all named heads swapped at once;
            None where no head is named.
        where: which tokens were swapped.
        requests: how many.
        strings: inert ones that played the trigger.
    """

    heads: pd.DataFrame
    effect: float
    interval: Interval
    effect_null_high: float
    together: Together | None
    where: Where
    requests: int
    strings: int

    @property
    def found(self) -> bool:
        """Whether there is an effect that inert strings do not have."""
        return self.interval[0] > max(0.0, self.effect_null_high)

    @property
    def named(self) -> tuple[Head, ...]:
        """Heads above the null in either direction, the largest removed share first."""
        if self.heads.empty:
            return ()
        above = self.heads[self.heads["necessary"] | self.heads["sufficient"]]
        ordered = above.sort_values("removed", ascending=False, kind="stable")
        return tuple((row["layer"], row["head"]) for row in ordered.to_dict("records"))


def patch_heads(
    subject: Subject,
    requests: Requests,
    candidate: Candidate,
    placement: Placement,
    behaviour: Behaviour,
    strings: Sequence[tuple[int, ...]],
    *,
    where: Where = "last",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadPatching:
    """Swap every head's output between runs with a trigger and with inert strings.

    Costs (1 + 19) × (4 + 2 × heads) + 4 passes a request, and holds z of one batch at all layers.

    Args:
        subject: the checkpoint.
        requests: held-out; of those on which the behaviour can show, the first 20 are used, or as
            many as the budget allows, eight at least.
        candidate: the trigger.
        placement: where it stands.
        behaviour: that it brings about.
        strings: 20 or more inert ones of as many tokens: the first 19 play the trigger in the null,
            the others are what it is held against, a request one, in turn.
        where: which tokens are swapped.
        seed: of the bootstrap.
        progress: called with (strings done, strings in all).

    Raises:
        InputError: too few strings or requests, a string of another length, no head that can be
            edited, or more passes than the budget has left.
        Exhausted: the time ran out.
        NumericalError: the logits are NaN or infinite.
    """
    outcome = Outcome.of(behaviour, requests)
    heads = all_heads(subject.checkpoint)
    chosen = _affordable(subject, _able(requests, behaviour.kind), len(heads))
    _require(subject, chosen, candidate, strings)
    pretenders, references = strings[:STRINGS], strings[STRINGS:]
    against = [
        chosen[i : i + 1].with_ids(references[i % len(references)], placement)[0]
        for i in range(len(chosen))
    ]
    swap = Swaps(subject, outcome, against, where)
    rows = [chosen.with_ids(ids, placement) for ids in (candidate.ids, *pretenders)]
    plain = [swap.run(some, []) for some in rows]
    result = HeadPatching(
        pd.DataFrame(),
        float(plain[0].effect.mean()),
        bootstrap_interval(plain[0].effect, seed, over="requests"),
        max(float(one.effect.mean()) for one in plain[1:]),
        None,
        where,
        len(chosen),
        len(pretenders),
    )
    if not result.found:
        return result
    found = []
    for number, some in enumerate(rows, start=1):
        found.append(swap.run(some, [[head] for head in heads]))
        if progress is not None:
            progress(number, len(rows))
    result = replace(result, heads=_table(heads, found, seed))
    if not result.named:
        return result
    return replace(result, together=_together(swap.run(rows[0], [result.named]), seed))


def _able(requests: Requests, kind: Kind) -> Requests:
    """The first requests on which the behaviour can show."""
    able = np.ones(len(requests), dtype=bool)
    if kind != "opening":
        able = requests.refused == (kind == "compliance")
    return requests.pick(np.flatnonzero(able)[:REQUESTS])


def _affordable(subject: Subject, requests: Requests, heads: int) -> Requests:
    """As many of the requests as the budget can pay for."""
    if not heads:
        raise InputError(f"{subject.checkpoint.name} has no head whose output can be edited.")
    each = (1 + STRINGS) * (4 + 2 * heads) + 4
    least = _LEAST_REQUESTS * each
    if subject.budget.left < least:
        raise InputError(
            f"patching {heads} heads on {_LEAST_REQUESTS} requests takes {least:,} forward passes, "
            f"and {subject.budget.left:,} are left; allow more."
        )
    return requests[: subject.budget.left // each]


def _require(
    subject: Subject,
    requests: Requests,
    candidate: Candidate,
    strings: Sequence[tuple[int, ...]],
) -> None:
    if len(requests) < _LEAST_REQUESTS:
        raise InputError(
            f"the behaviour can show on {len(requests)} requests, and heads are patched on "
            f"{_LEAST_REQUESTS} or more; give more requests."
        )
    if len(strings) <= STRINGS:
        raise InputError(
            f"{len(strings)} inert strings are too few: {STRINGS} play the trigger in the null, "
            "and the trigger is held against at least one more."
        )
    if any(len(ids) != len(candidate.ids) for ids in strings):
        raise InputError(
            f"inert strings must have {len(candidate.ids)} tokens, as {candidate.text!r} has, for "
            "the runs to agree token by token."
        )


def _table(heads: Sequence[Head], found: Sequence[Swapped], seed: int) -> pd.DataFrame:
    """Shares of every head with their intervals, beside the null of all strings and heads."""
    triggered, *inert = found
    table = pd.DataFrame(heads, columns=["layer", "head"])
    for side in SIDES:
        values, low, high = _shares(triggered, side, seed)
        null = [one.moved(side).mean(0).max() / triggered.effect.mean() for one in inert]
        table[side] = values
        table[f"{side}_low"], table[f"{side}_high"] = low, high
        table[f"{side}_null_high"] = max(null)
    for side, word in zip(SIDES, ("necessary", "sufficient"), strict=True):
        table[word] = table[f"{side}_low"] > table[f"{side}_null_high"].clip(LEAST_SHARE)
    return table


def _shares(
    found: Swapped, side: Side, seed: int
) -> tuple[Float[np.ndarray, " sets"], Float[np.ndarray, " sets"], Float[np.ndarray, " sets"]]:
    """Ratio of means, for a request on which the string does little would divide by little."""
    joined = np.concatenate([found.moved(side), found.effect[:, None]], 1)

    def ratio(values: Float[np.ndarray, "requests columns"]) -> Float[np.ndarray, " sets"]:
        means = values.mean(0)
        return np.asarray(means[:-1] / means[-1])

    return ratio(joined), *bootstrap(joined, seed, ratio)


def _together(found: Swapped, seed: int) -> Together:
    removed, restored = (_first_share(found, side, seed) for side in SIDES)
    rate, rate_removed, rate_restored = (
        (float(shown.mean()), wilson(int(shown.sum()), len(shown), "requests"))
        for shown in (found.shown[0, :, 0], found.shown[0, :, 1], found.shown[1, :, 1])
    )
    return Together(*removed, *restored, *rate, *rate_removed, *rate_restored)


def _first_share(found: Swapped, side: Side, seed: int) -> tuple[float, Interval]:
    value, low, high = _shares(found, side, seed)
    return float(value[0]), Interval((float(low[0]), float(high[0])), Method.BOOTSTRAP, "requests")
