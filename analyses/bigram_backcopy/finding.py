"""The Bigram-Backcopy finding: its tables, its verdict, and what it does not show."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from analyses.bigram_backcopy.report import (
    BigramBackcopyReport,
    CurvePoint,
    Tables,
    TrainedModel,
    TrainingProvenance,
)
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from analyses.shared.reports import as_json
from analyses.shared.tables import frame_of

FORMAT_VERSION: Literal[1] = 1

CAVEATS = (
    "One bigram table, one model size, and runs of a thousand steps or so: this shows that the "
    "mechanism exists, not how often it is at work in a language model.",
    "Seeds are few and are shown one by one; no interval is claimed.",
    "Steps are those of a schedule with warm-up, a cosine and a change from short to full "
    "sequences at three fifths of the run. Compare curves with each other at one step, not with "
    "the paper's step counts. Curves are measured on short sequences, the summary on full ones.",
    "The gated variants belong to another family than the plain one (query-key norms, other norm "
    "gains). Only the pair with the trained and the frozen-open gate differs in nothing else.",
    "ReLU weights do not sum to one, so attention on <bos> has another scale there.",
    "The SGD variant has its own learning rate; how far it gets depends on that choice.",
)


class BigramBackcopyFinding(Finding):
    """How sinks, value drains and residual peaks come about while small models learn.

    The tables are `dynamics` (variant, seed, step, quantity, value; nats for risks and logits) and
    `summary` (one row for each trained model, after the last step).
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.bigram_backcopy.figures import DRAWING

        return DRAWING

    @property
    def table(self) -> pd.DataFrame:
        """The curves in long format: variant, seed, step, quantity, value."""
        return self.tables["dynamics"]

    @property
    def summary(self) -> pd.DataFrame:
        """One row for each trained model."""
        return self.tables["summary"]


def build(
    dynamics: Sequence[CurvePoint],
    summary: Sequence[TrainedModel],
    provenance: TrainingProvenance,
) -> BigramBackcopyFinding:
    """Put the finding together; no model runs here."""
    tables = {
        "dynamics": frame_of(dynamics, CurvePoint),
        "summary": frame_of(summary, TrainedModel),
    }
    report = BigramBackcopyReport(
        kind="bigram_backcopy",
        format_version=FORMAT_VERSION,
        verdict=verdict(tables["summary"]),
        provenance=provenance,
        tables=Tables(dynamics, summary),
        caveats=CAVEATS,
    )
    return BigramBackcopyFinding(as_json(report), tables)


def verdict(summary: pd.DataFrame) -> str:
    """The sinks, what gates leave of them, and whether all models behave; from numbers alone."""
    ungated = [(label, rows) for label, rows, gated in _variants(summary) if not gated]
    gated = [(label, rows) for label, rows, gated in _variants(summary) if gated]
    said = []
    if ungated:
        listed = (
            f"{label} {_span(rows, 'bos_attention')} ({_span(rows, 'value_ratio')})"
            for label, rows in ungated
        )
        said.append(
            "Attention on <bos> at dormant positions, and in brackets its value norm relative to "
            f"the other tokens': {'; '.join(listed)}."
        )
    if gated:
        listed = (
            f"{label} {_span(rows, 'gated_sink_mass')} (gate {_span(rows, 'gate_dormant')}, raw "
            f"attention {_span(rows, 'bos_attention')})"
            for label, rows in gated
        )
        said.append(f"Weighted by a trained gate the same attention is: {'; '.join(listed)}.")
    missed = summary.loc[~summary["as_owed"].astype(bool), ["variant", "seed"]]
    names = ", ".join(f"{row.variant} (seed {row.seed})" for row in missed.itertuples())
    said.append(
        f"{len(missed)} of {len(summary)} models do not behave as their recipes owe: {names}."
        if names
        else f"All {len(summary)} models behave as their recipes owe."
    )
    return " ".join(said)


def _variants(summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame, bool]]:
    """Label and rows of each variant, and whether it has a gate that is not held open."""
    found = []
    for label, rows in summary.groupby("label", sort=False):
        gate = rows["gate_dormant"] if "gate_dormant" in rows else pd.Series(dtype=float)
        found.append((str(label), rows, bool((gate.dropna() < 1).any())))
    return found


def _span(rows: pd.DataFrame, quantity: str) -> str:
    """`0.96`, or `0.96–0.98` over several seeds."""
    low, high = (_number(float(value)) for value in (rows[quantity].min(), rows[quantity].max()))
    return low if low == high else f"{low}–{high}"


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"
