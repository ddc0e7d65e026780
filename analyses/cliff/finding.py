"""The cliff finding, put together from measurements."""

from typing import Any

import numpy as np
import pandas as pd

from analyses.cliff.measure import Measured, Settings, refusals
from analyses.cliff.verdict import verdict
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from probes.cliff.example_selection import SELECTORS, select

FORMAT_VERSION = 1
FRACTIONS = (0.02, 0.05, 1.0)


class CliffFinding(Finding):
    """Whether refusal falls at the end of a model's thought, and which heads let it fall.

    `report` follows the schema in `docs/cliff.md`; the tables are `forced_stop`, `trajectory`,
    `heads`, `ablations`, `pairs`, `prompts` and `selectors`.
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.cliff.figures import DRAWING

        return DRAWING

    @property
    def heads(self) -> pd.DataFrame:
        """One row a head, the strongest direct suppression first."""
        return self.tables["heads"]

    @property
    def trajectory(self) -> pd.DataFrame:
        """The probe along prompt, thought and closing marker."""
        return self.tables["trajectory"]


def build(
    found: Measured, settings: Settings, provenance: dict[str, Any], caveats: tuple[str, ...]
) -> CliffFinding:
    """Put all tables and the head numbers together; no model runs here.

    Args:
        found: the measurements.
        settings: of the run.
        provenance: of the run.
        caveats: of the requests.
    """
    from analyses.report.writing import plain

    curve = found.curve.frame(settings.seed)
    curve["interval"] = _pairs(curve, "difference")
    frames = {
        "forced_stop": pd.DataFrame(found.forced),
        "trajectory": curve,
        "heads": found.heads.heads,
        "ablations": found.heads.conditions,
        "pairs": found.heads.pairs,
        "prompts": found.judged,
        "selectors": _selectors(found.judged, settings.seed),
    }
    report: dict[str, Any] = {
        "kind": "cliff",
        "format_version": FORMAT_VERSION,
        "verdict": "",
        "provenance": provenance,
        "forced_stop": frames["forced_stop"],
        "natural": found.natural,
        "trajectory": curve,
        "cliff": _cliff(found),
        "heads": frames["heads"],
        "suppression_heads": [
            {"layer": layer, "head": head} for layer, head in found.heads.suppression
        ],
        "rates": {
            "harmful": refusals(found, "harmful"),
            "harmless": refusals(found, "harmless"),
            "alarming": refusals(found, "alarming"),
        },
        "ablations": frames["ablations"],
        "pairs": frames["pairs"].head(50),
        "probe": _probe(found),
        "selectors": frames["selectors"],
        "causality_leak": found.leak,
        "settings": {
            "closing": settings.markers.closing.strip(),
            "stop_text": settings.stop_text.strip(),
            "thinking_budget": settings.thinking_budget,
            "max_new_tokens": settings.max_new_tokens,
            "exhaustive": settings.exhaustive,
            "named_heads": [{"layer": layer, "head": head} for layer, head in found.heads.top],
        },
        "caveats": [*caveats, *_caveats(found, settings)],
    }
    report = plain(report)
    report["verdict"] = verdict(report)
    return CliffFinding(report, frames)


def _cliff(found: Measured) -> dict[str, Any]:
    fall = found.fall
    return {
        "plateau": fall.plateau,
        "final": fall.final,
        "depth": fall.depth,
        "token_index": fall.token_index,
        "interval": list(fall.interval),
        "from_end": fall.from_end,
        "plateau_interval": list(fall.plateau_interval),
        "final_interval": list(fall.final_interval),
        "n": [len(found.curve.harmful), len(found.curve.harmless)],
    }


def _probe(found: Measured) -> dict[str, Any]:
    area = found.probe_auroc
    return {
        "cells": found.answer_probe.counts,
        "cells_with_thoughts": found.probe.counts,
        "missing": list(found.answer_probe.missing),
        "auroc": None if area is None else area.value,
        "interval": None if area is None else list(area.interval),
        "n": None if area is None else [area.positives, area.negatives],
    }


def _selectors(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How many of the chosen complied although their thought means to refuse."""
    if table.empty:
        return pd.DataFrame(columns=["selector", "percent", "n", "complied", "mean_depth"])
    by_row = table.set_index("row")
    entries = []
    for fraction in FRACTIONS:
        for selector in SELECTORS:
            chosen = by_row.loc[select(table, selector, fraction, seed)]
            entries.append(
                {
                    "selector": selector,
                    "percent": 100 * fraction,
                    "n": len(chosen),
                    "complied": float((~chosen["refused"]).mean()),
                    "mean_depth": float(chosen["depth"].mean()),
                }
            )
    return pd.DataFrame(entries)


def _pairs(table: pd.DataFrame, name: str) -> list[list[float]]:
    return np.stack([table[f"{name}_low"], table[f"{name}_high"]], 1).tolist()


def _caveats(found: Measured, settings: Settings) -> list[str]:
    """What a reader must know before using the numbers; only what applies."""
    notes = []
    if found.answer_probe.missing:
        cells = " and ".join(cell.replace("_", " ") for cell in found.answer_probe.missing)
        notes.append(
            f"The model gave no {cells} request to learn from, so the probe reads harmfulness "
            "together with refusal."
        )
    unclosed = sum(rate["unclosed"] for rate in found.rates.values())
    if unclosed:
        notes.append(
            f"{unclosed} thoughts did not close within {settings.thinking_budget} tokens; they are "
            "in no rate and in no curve."
        )
    without = sum(rate["without_thought"] for rate in found.rates.values())
    if without:
        notes.append(f"{without} requests were answered without a thought; they are left out.")
    notes.append(
        "Inside thoughts the probe learned from what the model does when it is stopped there, "
        "where refusal mostly goes with harmfulness; the forced stops say what it would do."
    )
    if settings.stop_text.strip() == settings.markers.closing.strip():
        notes.append(
            "The thought is cut with the marker that closes it, so a cut behind its last token is "
            "the natural end again."
        )
    notes.append(
        "A head's contribution is what it writes straight into the probe; a head that acts through "
        "later layers is found by ablation only"
        + ("." if settings.exhaustive else ", and only the named heads were ablated.")
    )
    least = int(found.heads.heads["null_heads"].min())
    notes.append(
        f"The null of a head is what other heads of its layer do when silenced, {least} of them at "
        "the least; heads that stand in for each other show nothing alone."
    )
    notes.append(
        "Plateau, final value, depth and the token of the drop are definitions of ours; the "
        "literature gives no formula. Answers are greedy."
    )
    return notes
