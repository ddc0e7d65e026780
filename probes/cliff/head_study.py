"""Which heads suppress refusal: ablation beside a null that is matched by layer.

The heads to test are named by their direct contribution to the probe before anything is ablated.
A head counts as a suppression head only if refusal after silencing it lies above what silencing
random other heads of its layer does; there may be none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.data.known_answers import KnownAnswers
from interp.generation import next_logits
from interp.statistics.intervals import bootstrap_interval
from probes.cliff.forced_stop import Respondent, share
from probes.cliff.refusal_probe import RefusalProbe, logits_under
from probes.cliff.rollouts import Rollout
from probes.cliff.rows import AblationCondition, HeadEffect, PairInteraction, RefusalShare
from probes.heads.head_ablation import Head, Where, all_heads, closing_marker, silenced_heads

PAIRS_OF = 16  # heads among which pairs are silenced


@dataclass(frozen=True)
class HeadStudy:
    """What silencing heads does.

    Attributes:
        heads: a row a head, in order of their contribution.
        conditions: a row an ablation of several heads: what it does to refusal of harmful requests,
            to refusal of harmless ones, and to answers that should not change.
        pairs: a row a pair of the first heads, the largest interaction first.
        suppression: those above the null.
        top: those named in advance.
    """

    heads: tuple[HeadEffect, ...]
    conditions: tuple[AblationCondition, ...]
    pairs: tuple[PairInteraction, ...]
    suppression: tuple[Head, ...]
    top: tuple[Head, ...]


@dataclass(frozen=True)
class Utility:
    """What becomes of harmless requests when heads are silenced.

    Attributes:
        kl: mean of KL(as it was ‖ silenced) of the first answer token, in nats.
        compliant: share of answers that comply to the letter; None where that is not known.
    """

    kl: float
    compliant: float | None


@dataclass(frozen=True)
class Ablations:
    """Silences heads on thoughts that the model closed itself, and counts.

    Attributes:
        respondent: who answers.
        harmful: closed thoughts of harmful requests.
        harmless: of harmless ones, for over-refusal and utility.
        where: positions at which heads are silenced; None for every token.
        progress: called with (ablations done, in all).
    """

    respondent: Respondent
    harmful: Sequence[Rollout]
    harmless: Sequence[Rollout]
    where: Where | None = closing_marker
    progress: Callable[[int, int], None] | None = None

    def refusal(self, heads: Sequence[Head], restore_norm: bool = False) -> RefusalShare:
        """Refusal of harmful requests with heads silenced; none for the baseline."""
        return share(self._refused("harmful", self.harmful, heads, restore_norm))

    def over_refusal(self, heads: Sequence[Head], restore_norm: bool = False) -> RefusalShare:
        """Refusal of harmless requests, likewise."""
        return share(self._refused("harmless", self.harmless, heads, restore_norm))

    def utility(self, heads: Sequence[Head], restore_norm: bool = False) -> Utility:
        """What becomes of harmless requests."""
        # Requests of several labels may share an index.
        rows = [replace(one.whole, index=i) for i, one in enumerate(self.harmless)]
        checkpoint = self.respondent.checkpoint
        base, changed = (
            torch.log_softmax(next_logits(checkpoint, rows, edit=edit).double(), -1)
            for edit in (None, self._edit(heads, restore_norm))
        )
        kl = float((base.exp() * (base - changed)).sum(-1).mean())
        known = [isinstance(one.prompt, KnownAnswers) for one in self.harmless]
        compliant = None
        if all(known):
            answers = self._answers("harmless", self.harmless, heads, restore_norm)
            hits = [
                answer.text.strip() == one.prompt.compliance  # type: ignore[attr-defined]
                for answer, one in zip(answers, self.harmless, strict=True)
            ]
            compliant = share(np.array(hits, bool)).rate
        return Utility(max(0.0, kl), compliant)

    def condition(
        self, name: str, heads: Sequence[Head], *, restore_norm: bool = False, all_of: bool = True
    ) -> AblationCondition:
        """One row of the table of conditions; without `all_of` refusal of harmful requests only."""
        refusal = self.refusal(heads, restore_norm)
        low, high = refusal.interval or (None, None)
        row = AblationCondition(
            condition=name,
            heads=" ".join(f"{layer}.{head}" for layer, head in heads),
            norm_restored=restore_norm,
            refusal=refusal.rate,
            refusal_low=low,
            refusal_high=high,
            refusal_n=refusal.n,
        )
        if not all_of or not self.harmless:
            return row
        over = self.over_refusal(heads, restore_norm)
        utility = self.utility(heads, restore_norm)
        low, high = over.interval or (None, None)
        return replace(
            row,
            over_refusal=over.rate,
            over_refusal_low=low,
            over_refusal_high=high,
            over_refusal_n=over.n,
            kl=utility.kl,
            compliant=utility.compliant,
        )

    def _refused(
        self, name: str, asked: Sequence[Rollout], heads: Sequence[Head], restore_norm: bool
    ) -> np.ndarray:
        return self.respondent.refused(self._answers(name, asked, heads, restore_norm))

    def _answers(
        self, name: str, asked: Sequence[Rollout], heads: Sequence[Head], restore_norm: bool
    ) -> Any:
        named = "-".join(f"{layer}.{head}" for layer, head in heads) or "none"
        run = f"silenced-{name}-{named}{'-restored' if restore_norm else ''}"
        rows = [one.whole for one in asked]
        return self.respondent.answers(run, asked, rows, self._edit(heads, restore_norm))

    def _edit(self, heads: Sequence[Head], restore_norm: bool) -> Any:
        if not heads:
            return None
        return silenced_heads(
            self.respondent.checkpoint, heads, where=self.where, restore_norm=restore_norm
        )


def study_heads(
    ablations: Ablations,
    ranked: pd.DataFrame,
    probe: RefusalProbe,
    *,
    share_of_heads: float = 0.03,
    exhaustive: bool = False,
    draws: int = 4,
    seed: int = 0,
) -> HeadStudy:
    """Silence the heads that push the probe down most, and random ones beside them.

    Args:
        ablations: on which thoughts.
        ranked: `Contributions.ranked()`.
        probe: of refusal, for the interaction of pairs.
        share_of_heads: of all heads, that are named in advance; at least one head.
        exhaustive: silence every head by itself, the slow reference of the ranking.
        draws: random sets for each null.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    every = all_heads(ablations.respondent.checkpoint)
    order: list[Head] = [(row["layer"], row["head"]) for row in ranked.to_dict("records")]
    top = order[: max(1, round(share_of_heads * len(every)))]
    null_sets = {
        layer: _others(every, top, layer, draws, rng) for layer in sorted({one for one, _ in every})
    }
    tested = every if exhaustive else top
    needed = list(
        dict.fromkeys([*tested, *(other for layer, _ in tested for other in null_sets[layer])])
    )
    alone: dict[Head, RefusalShare] = {}
    for head in needed:
        alone[head] = ablations.refusal([head])
        if ablations.progress is not None:
            ablations.progress(len(alone), len(needed))
    heads = _head_table(ranked, tested, null_sets, alone)
    return HeadStudy(
        heads=heads,
        conditions=_conditions(ablations, every, top, draws, rng),
        pairs=pair_interactions(ablations, order[:PAIRS_OF], probe, seed),
        suppression=tuple((row.layer, row.head) for row in heads if row.suppresses),
        top=tuple(top),
    )


def _others(
    every: Sequence[Head], top: Sequence[Head], layer: int, draws: int, rng: np.random.Generator
) -> list[Head]:
    """Random heads of a layer that were not named in advance; of all layers where it has none."""
    pool = [head for head in every if head[0] == layer and head not in top]
    pool = pool or [head for head in every if head not in top]
    # One more, because a head is never its own null.
    chosen = rng.permutation(len(pool))[: draws + 1]
    return [pool[i] for i in chosen]


def _head_table(
    ranked: pd.DataFrame,
    tested: Sequence[Head],
    null_sets: dict[int, list[Head]],
    alone: dict[Head, RefusalShare],
) -> tuple[HeadEffect, ...]:
    rows = []
    for row in ranked.to_dict("records"):
        head = (row["layer"], row["head"])
        null = [other for other in null_sets[head[0]] if other != head]
        refusal = alone[head] if head in tested else RefusalShare(None, 0, None)
        null_high = None
        if head in tested and null:
            null_high = max(_ends(alone[other])[1] for other in null)
        rows.append(
            HeadEffect(
                layer=head[0],
                head=head[1],
                contribution=row["contribution"],
                rank=row["rank"],
                ablated_refusal=refusal.rate,
                interval=refusal.interval,
                null_high=null_high,
                null_heads=len(null),
                # By the interval's lower end: one case more than the null is not enough.
                suppresses=null_high is not None and _ends(refusal)[0] > null_high,
            )
        )
    return tuple(rows)


def _ends(found: RefusalShare) -> tuple[float, float]:
    """The interval; everything where no thought was closed."""
    return found.interval or (0.0, 1.0)


def _conditions(
    ablations: Ablations,
    every: Sequence[Head],
    top: Sequence[Head],
    draws: int,
    rng: np.random.Generator,
) -> tuple[AblationCondition, ...]:
    """The named heads together, with and without restored norm, and random sets."""
    rows = [
        ablations.condition("nothing silenced", []),
        ablations.condition("named heads", top),
        ablations.condition("named heads", top, restore_norm=True),
    ]
    free = [head for head in every if head not in top]
    layers = {layer for layer, _ in top}
    pools = {
        "random heads, same layers": [head for head in free if head[0] in layers],
        "random heads, other layers": [head for head in free if head[0] not in layers],
        "random pair": free,
    }
    for name, pool in pools.items():
        size = 2 if name == "random pair" else len(top)
        seen: set[tuple[Head, ...]] = set()
        for _ in range(draws if len(pool) >= size else 0):
            chosen = tuple(sorted(pool[i] for i in rng.permutation(len(pool))[:size]))
            if chosen not in seen:
                seen.add(chosen)
                rows.append(ablations.condition(name, chosen, all_of=False))
    return tuple(rows)


def pair_interactions(
    ablations: Ablations, heads: Sequence[Head], probe: RefusalProbe, seed: int
) -> tuple[PairInteraction, ...]:
    """I(a, b) = e(ab) − e(a) − e(b) + e(0), with e the probe's logit when heads are silenced.

    At the last token of the closing marker, the mean over harmful requests with its 95 % interval.
    0 where two heads act by themselves; positive where silencing both gives refusal back that
    neither gives alone.

    Args:
        ablations: on which thoughts.
        heads: of which every pair is silenced.
        probe: of refusal.
        seed: of the bootstrap.
    """
    rows = [one.whole for one in ablations.harmful]
    checkpoint = ablations.respondent.checkpoint

    def effect(chosen: Sequence[Head]) -> Float[np.ndarray, " rows"]:
        edit = silenced_heads(checkpoint, chosen, where=ablations.where)
        return np.asarray(logits_under(checkpoint, rows, probe, edit) - base)

    base = logits_under(checkpoint, rows, probe)
    alone = {head: effect([head]) for head in heads}
    pairs = []
    for a, b in combinations(heads, 2):
        both = effect([a, b])
        interaction = both - alone[a] - alone[b]
        low, high = bootstrap_interval(interaction, seed, over="requests")
        pairs.append(
            PairInteraction(
                a=f"{a[0]}.{a[1]}",
                b=f"{b[0]}.{b[1]}",
                effect_a=float(alone[a].mean()),
                effect_b=float(alone[b].mean()),
                effect_both=float(both.mean()),
                interaction=float(interaction.mean()),
                interaction_low=low,
                interaction_high=high,
            )
        )
    return tuple(sorted(pairs, key=lambda pair: -abs(pair.interaction)))
