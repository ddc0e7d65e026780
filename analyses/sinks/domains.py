"""Active and dormant heads: the same head on two or more corpora (Guo et al., arXiv 2410.13835).

A head switches between domains if its sink mass distinguishes them (AUROC over sequences ≥ 0.95)
and silencing it costs more than noise of the same norm where its sink mass is low, but not where it
is high. The noise is what keeps a large but irrelevant head from counting as active.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from analyses.shared.reports import NotMeasured
from analyses.sinks.causal import CausalEffects
from analyses.sinks.measure import Measurements
from analyses.sinks.report import NO_CAUSAL_PANEL, DomainHeadRow, DomainRow
from analyses.sinks.tables import end, interval_or_reason, percent
from interp.statistics.intervals import auroc_interval, bootstrap, mean_interval, share_interval

AUC_AT_LEAST = 0.95


def domain_rows(
    found: Measurements, effects: CausalEffects | None, epsilon: float, seed: int
) -> list[DomainRow]:
    """One row a domain: sink rate and first-token attention, with the loss of the causal rows."""
    alpha = _alpha(found)
    names = _row_domains(found)
    rows = []
    for name in found.rows.domains:
        here = np.concatenate([a[names == name] for a in alpha], axis=1)
        shares = (here > epsilon).mean(1)
        loss: float | NotMeasured = NO_CAUSAL_PANEL
        if effects is not None:
            loss = float(effects.loss[np.array(effects.domains) == name].mean())
        rows.append(
            DomainRow(
                name=name,
                sequences=int((names == name).sum()),
                skipped=found.rows.skipped.get(name, 0),
                sink_percent=100.0 * float(shares.mean()),
                interval=percent(share_interval(shares, seed)),
                first_token_attention=float(here.mean()),
                first_token_interval=interval_or_reason(mean_interval(here.mean(1), seed)),
                loss=loss,
            )
        )
    return rows


def domain_head_rows(
    found: Measurements, effects: CausalEffects | None, seed: int
) -> list[DomainHeadRow]:
    """Each head between the domain where its sink mass is lowest and where it is highest.

    Empty with fewer than two domains.
    """
    if len(found.rows.domains) < 2:
        return []
    records = found.records["first_key"]
    names = _row_domains(found)
    rows = []
    for place, layer in enumerate(records.layers("sink_mass")):
        mass = records.at("sink_mass", layer)
        means = {name: mass[names == name].mean(0) for name in found.rows.domains}
        for head in range(mass.shape[1]):
            at = {name: float(means[name][head]) for name in means}
            low, high = min(at, key=lambda name: at[name]), max(at, key=lambda name: at[name])
            auc = _auc(mass[names == low, head], mass[names == high, head])
            ends = auroc_interval(auc, int((names == low).sum()), int((names == high).sum()))
            row = DomainHeadRow(
                layer=layer,
                head=head,
                domain_low=low,
                domain_high=high,
                sink_mass_low=at[low],
                sink_mass_high=at[high],
                auc=auc,
                auc_low=ends[0],
                auc_high=ends[1],
            )
            rows.append(row if effects is None else _with_effects(row, effects, place, seed))
    return rows


@dataclass(frozen=True)
class _Cost:
    """What silencing a head costs in a domain, in nats per token."""

    delta_loss: float
    excess: float
    excess_from: float


def _with_effects(
    row: DomainHeadRow, effects: CausalEffects, place: int, seed: int
) -> DomainHeadRow:
    low, high = (
        _cost(effects, place, row.head, name, seed) for name in (row.domain_low, row.domain_high)
    )
    active, dormant = low.excess_from > 0, not high.excess_from > 0
    return replace(
        row,
        delta_loss_low=low.delta_loss,
        excess_low=low.excess,
        excess_low_from=end(low.excess_from),
        delta_loss_high=high.delta_loss,
        excess_high=high.excess,
        excess_high_from=end(high.excess_from),
        switching=bool(row.auc >= AUC_AT_LEAST and active and dormant),
    )


def _cost(effects: CausalEffects, place: int, head: int, domain: str, seed: int) -> _Cost:
    """Change of the loss by silencing a head, and its excess over noise of the same norm."""
    rows = np.array(effects.domains) == domain
    silenced = effects.delta["ablation"][rows, place, head]
    excess = silenced - effects.delta["random"][rows, place, head]
    lower_end = float(bootstrap(excess, seed)[0])
    return _Cost(float(silenced.mean()), float(excess.mean()), lower_end)


def _auc(low: NDArray[np.floating], high: NDArray[np.floating]) -> float:
    """How well the sink mass distinguishes sequences of the two domains."""
    labels = np.concatenate([np.zeros(len(low)), np.ones(len(high))])
    return float(roc_auc_score(labels, np.concatenate([low, high])))


def _alpha(found: Measurements) -> list[NDArray[np.floating]]:
    records = found.records["first_key"]
    return [records.at("alpha", layer) for layer in records.layers("alpha")]


def _row_domains(found: Measurements) -> NDArray[np.object_]:
    by_index = {row.index: row.domain for row in found.rows.rows}
    return np.array([by_index[int(row)] for row in found.records["first_key"].rows], dtype=object)
