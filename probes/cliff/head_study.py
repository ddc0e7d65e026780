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
from interp.statistics.intervals import bootstrap
from probes.cliff.forced_stop import Respondent, share
from probes.cliff.refusal_probe import RefusalProbe, logits_under
from probes.cliff.rollouts import Rollout
from probes.heads.head_ablation import Head, Where, all_heads, closing_marker, silenced_heads

PAIRS_OF = 16  # heads among which pairs are silenced


@dataclass(frozen=True)
class HeadStudy:
    """What silencing heads does.

    Attributes:
        heads: a row a head: layer, head, contribution, rank, ablated_refusal (None where it was
            not ablated), its interval, null_high, null_heads.
        conditions: a row an ablation of several heads: what it does to refusal of harmful requests,
            to refusal of harmless ones, and to answers that should not change.
        pairs: a row a pair of the first heads: the change of the probe's logit by each, by both,
            and the interaction.
        suppression: those above the null.
        top: those named in advance.
    """

    heads: pd.DataFrame
    conditions: pd.DataFrame
    pairs: pd.DataFrame
    suppression: tuple[Head, ...]
    top: tuple[Head, ...]


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

    def refusal(self, heads: Sequence[Head], restore_norm: bool = False) -> dict[str, Any]:
        """Refusal of harmful requests with heads silenced; none for the baseline."""
        return share(self._refused("harmful", self.harmful, heads, restore_norm))

    def over_refusal(self, heads: Sequence[Head], restore_norm: bool = False) -> dict[str, Any]:
        """Refusal of harmless requests, likewise."""
        return share(self._refused("harmless", self.harmless, heads, restore_norm))

    def utility(self, heads: Sequence[Head], restore_norm: bool = False) -> dict[str, Any]:
        """What becomes of harmless requests.

        `kl` is the mean of KL(as it was ‖ silenced) of the first answer token, in nats; `compliant`
        the share of answers that comply to the letter, where that is known.
        """
        # Requests of several labels may share an index.
        rows = [replace(one.whole, index=i) for i, one in enumerate(self.harmless)]
        checkpoint = self.respondent.checkpoint
        base, changed = (
            torch.log_softmax(next_logits(checkpoint, rows, edit=edit).double(), -1)
            for edit in (None, self._edit(heads, restore_norm))
        )
        kl = float((base.exp() * (base - changed)).sum(-1).mean())
        known = [isinstance(one.prompt, KnownAnswers) for one in self.harmless]
        found: dict[str, Any] = {"kl": max(0.0, kl), "compliant": None}
        if all(known):
            answers = self._answers("harmless", self.harmless, heads, restore_norm)
            hits = [
                answer.text.strip() == one.prompt.compliance  # type: ignore[attr-defined]
                for answer, one in zip(answers, self.harmless, strict=True)
            ]
            found["compliant"] = share(np.array(hits, bool))["rate"]
        return found

    def condition(
        self, name: str, heads: Sequence[Head], *, restore_norm: bool = False, all_of: bool = True
    ) -> dict[str, Any]:
        """One row of the table of conditions; without `all_of` refusal of harmful requests only."""
        row: dict[str, Any] = {
            "condition": name,
            "heads": " ".join(f"{layer}.{head}" for layer, head in heads),
            "norm_restored": restore_norm,
        }
        row |= _named("refusal", self.refusal(heads, restore_norm))
        if all_of and self.harmless:
            row |= _named("over_refusal", self.over_refusal(heads, restore_norm))
            row |= self.utility(heads, restore_norm)
        return row

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
    alone: dict[Head, dict[str, Any]] = {}
    for head in needed:
        alone[head] = ablations.refusal([head])
        if ablations.progress is not None:
            ablations.progress(len(alone), len(needed))
    heads = _head_table(ranked, tested, null_sets, alone)
    above = heads[heads["suppresses"]].to_dict("records")
    return HeadStudy(
        heads=heads,
        conditions=_conditions(ablations, every, top, draws, rng),
        pairs=pair_interactions(ablations, order[:PAIRS_OF], probe, seed),
        suppression=tuple((row["layer"], row["head"]) for row in above),
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
    alone: dict[Head, dict[str, Any]],
) -> pd.DataFrame:
    entries = []
    for row in ranked.to_dict("records"):
        head = (row["layer"], row["head"])
        null = [other for other in null_sets[head[0]] if other != head]
        entry: dict[str, Any] = {
            **{str(name): value for name, value in row.items()},
            "ablated_refusal": None,
            "interval": None,
            "null_high": None,
            "null_heads": len(null),
            "suppresses": False,
        }
        if head in tested and null:
            entry["null_high"] = max(alone[other]["interval"][1] for other in null)
        if head in tested:
            entry["ablated_refusal"] = alone[head]["rate"]
            entry["interval"] = alone[head]["interval"]
            # By the interval's lower end: one case more than the null is not enough.
            entry["suppresses"] = bool(null) and entry["interval"][0] > entry["null_high"]
        entries.append(entry)
    return pd.DataFrame(entries)


def _conditions(
    ablations: Ablations,
    every: Sequence[Head],
    top: Sequence[Head],
    draws: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
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
    return pd.DataFrame(rows)


def pair_interactions(
    ablations: Ablations, heads: Sequence[Head], probe: RefusalProbe, seed: int
) -> pd.DataFrame:
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
    entries = []
    for a, b in combinations(heads, 2):
        both = effect([a, b])
        interaction = both - alone[a] - alone[b]
        low, high = bootstrap(interaction, seed)
        entries.append(
            {
                "a": f"{a[0]}.{a[1]}",
                "b": f"{b[0]}.{b[1]}",
                "effect_a": float(alone[a].mean()),
                "effect_b": float(alone[b].mean()),
                "effect_both": float(both.mean()),
                "interaction": float(interaction.mean()),
                "interaction_low": float(low),
                "interaction_high": float(high),
            }
        )
    columns = ["a", "b", "effect_a", "effect_b", "effect_both", "interaction",
               "interaction_low", "interaction_high"]  # fmt: skip
    table = pd.DataFrame(entries, columns=columns)
    order = table["interaction"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _named(name: str, found: dict[str, Any]) -> dict[str, Any]:
    low, high = found["interval"] or (None, None)
    return {name: found["rate"], f"{name}_low": low, f"{name}_high": high, f"{name}_n": found["n"]}
