"""Active and dormant heads: the same head on two or more corpora (Guo et al., arXiv 2410.13835).

A head switches between domains if its sink mass tells them apart (AUROC over sequences ≥ 0.95) and
silencing it costs more than noise of the same norm where its sink mass is low, but not where it is
high. The noise is what keeps a large but irrelevant head from counting as active.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from analyses.sinks.causal import CausalEffects
from analyses.sinks.measure import Measurements
from interp.statistics.intervals import auroc_interval, bootstrap, mean_interval, share_interval

AUC_AT_LEAST = 0.95


def domain_table(
    found: Measurements, effects: CausalEffects | None, epsilon: float, seed: int
) -> pd.DataFrame:
    """One row a domain: sink rate and first-token attention, with the loss of the causal rows."""
    alpha = _alpha(found)
    names = _row_domains(found)
    entries = []
    for name in found.rows.domains:
        here = np.concatenate([a[names == name] for a in alpha], axis=1)
        shares = (here > epsilon).mean(1)
        loss = np.nan
        if effects is not None:
            loss = effects.loss[np.array(effects.domains) == name].mean()
        entries.append(
            {
                "name": name,
                "sequences": int((names == name).sum()),
                "skipped": found.rows.skipped.get(name, 0),
                "sink_percent": 100.0 * float(shares.mean()),
                "interval": _percent(share_interval(shares, seed)),
                "first_token_attention": float(here.mean()),
                "first_token_interval": mean_interval(here.mean(1), seed),
                "loss": float(loss),
            }
        )
    return pd.DataFrame(entries)


def domain_heads(found: Measurements, effects: CausalEffects | None, seed: int) -> pd.DataFrame:
    """Each head between the domain where its sink mass is lowest and where it is highest.

    Empty with fewer than two domains.
    """
    if len(found.rows.domains) < 2:
        return pd.DataFrame(columns=_COLUMNS)
    records = found.records["first_key"]
    names = _row_domains(found)
    entries = []
    for place, layer in enumerate(records.layers("sink_mass")):
        mass = records.at("sink_mass", layer)
        means = {name: mass[names == name].mean(0) for name in found.rows.domains}
        for head in range(mass.shape[1]):
            at = {name: float(means[name][head]) for name in means}
            low, high = min(at, key=lambda name: at[name]), max(at, key=lambda name: at[name])
            auc = _auc(mass[names == low, head], mass[names == high, head])
            ends = auroc_interval(auc, int((names == low).sum()), int((names == high).sum()))
            entry: dict[str, Any] = {
                "layer": layer,
                "head": head,
                "domain_low": low,
                "domain_high": high,
                "sink_mass_low": at[low],
                "sink_mass_high": at[high],
                "auc": auc,
                "auc_low": ends[0],
                "auc_high": ends[1],
            }
            entries.append(entry | _effects(effects, place, head, low, high, auc, seed))
    return pd.DataFrame(entries, columns=_COLUMNS)


_COLUMNS = [
    "layer",
    "head",
    "domain_low",
    "domain_high",
    "sink_mass_low",
    "sink_mass_high",
    "auc",
    "auc_low",
    "auc_high",
    "delta_loss_low",
    "delta_loss_high",
    "excess_low",
    "excess_low_from",
    "excess_high",
    "excess_high_from",
    "switching",
]


def _effects(
    effects: CausalEffects | None,
    place: int,
    head: int,
    low: str,
    high: str,
    auc: float,
    seed: int,
) -> dict[str, Any]:
    """Δloss of silencing in both domains, and its excess over same-norm noise."""
    if effects is None:
        return dict.fromkeys(_COLUMNS[9:15], np.nan) | {"switching": None}
    domains = np.array(effects.domains)
    found: dict[str, Any] = {}
    for name, domain in (("low", low), ("high", high)):
        rows = domains == domain
        silenced = effects.delta["ablation"][rows, place, head]
        excess = silenced - effects.delta["random"][rows, place, head]
        found[f"delta_loss_{name}"] = float(silenced.mean())
        found[f"excess_{name}"] = float(excess.mean())
        found[f"excess_{name}_from"] = float(bootstrap(excess, seed)[0])
    active = found["excess_low_from"] > 0
    dormant = not found["excess_high_from"] > 0
    return found | {"switching": bool(auc >= AUC_AT_LEAST and active and dormant)}


def _auc(low: NDArray[np.floating], high: NDArray[np.floating]) -> float:
    """How well the sink mass tells sequences of the two domains apart."""
    labels = np.concatenate([np.zeros(len(low)), np.ones(len(high))])
    return float(roc_auc_score(labels, np.concatenate([low, high])))


def _alpha(found: Measurements) -> list[NDArray[np.floating]]:
    records = found.records["first_key"]
    return [records.at("alpha", layer) for layer in records.layers("alpha")]


def _row_domains(found: Measurements) -> NDArray[np.object_]:
    by_index = {row.index: row.domain for row in found.rows.rows}
    return np.array([by_index[int(row)] for row in found.records["first_key"].rows], dtype=object)


def _percent(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [100.0 * interval[0], 100.0 * interval[1]]
