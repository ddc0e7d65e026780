"""What a guard is worth on prompts that nothing was fitted on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.data.prompt_sets import PromptSet
from interp.errors import InputError
from interp.statistics.intervals import wilson
from probes.statistics.calibration import Platt, reliability
from probes.statistics.metrics import Auroc, OperatingPoint, auroc, operating_point, tpr_at_fpr

RATES = (0.01, 0.001)


@dataclass(frozen=True)
class Evaluation:
    """Figures of a guard on held-out prompts.

    Attributes:
        auroc: of harmful against benign.
        at_threshold: what the guard's own threshold does.
        tpr_at_fpr: a false-positive rate to the operating point that has it on these prompts.
        refused: a false-positive rate to why nothing is said about it.
        by_source: false positives of each source and label: source, label, n, fpr, low, high.
        reliability: the calibration curve; None for a guard without probabilities.
    """

    auroc: Auroc
    at_threshold: OperatingPoint
    tpr_at_fpr: dict[float, OperatingPoint]
    refused: dict[float, str]
    by_source: pd.DataFrame
    reliability: pd.DataFrame | None

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        curve = self.reliability
        return {
            "auroc": asdict(self.auroc),
            "at_threshold": asdict(self.at_threshold),
            "tpr_at_fpr": {f"{rate:g}": asdict(at) for rate, at in self.tpr_at_fpr.items()},
            "refused": {f"{rate:g}": why for rate, why in self.refused.items()},
            "by_source": self.by_source.to_dict("records"),
            "reliability": None if curve is None else curve.to_dict("records"),
        }


def evaluate(
    harmful: Float[np.ndarray, " n"],
    benign: Float[np.ndarray, " m"],
    prompts: PromptSet,
    threshold: float,
    platt: Platt | None = None,
    rates: Sequence[float] = RATES,
) -> Evaluation:
    """Measure scores.

    Args:
        harmful: scores of harmful prompts.
        benign: scores of benign ones.
        prompts: the benign ones, for their sources and labels.
        threshold: of the guard.
        platt: of the guard.
        rates: false-positive rates to give the share of harmful prompts found for.

    Raises:
        InputError: a class is empty.
        NumericalError: a score is not finite.
    """
    scores = np.concatenate([harmful, benign])
    positive = np.arange(len(scores)) < len(harmful)
    area = auroc(scores, positive)
    found: dict[float, OperatingPoint] = {}
    refused: dict[float, str] = {}
    for rate in rates:
        try:
            found[rate] = tpr_at_fpr(scores, positive, rate)
        except InputError as error:
            refused[rate] = str(error)
    return Evaluation(
        area,
        operating_point(scores, positive, threshold),
        found,
        refused,
        false_positives(benign, prompts, threshold),
        None if platt is None else reliability(platt(scores), positive),
    )


def false_positives(
    scores: Float[np.ndarray, " n"], prompts: PromptSet, threshold: float
) -> pd.DataFrame:
    """False positives of each source and label: source, label, n, fpr, low, high (Wilson)."""
    table = prompts.frame()[["source", "label"]].assign(flagged=scores > threshold)
    rows = []
    for (source, label), some in table.groupby(["source", "label"], sort=False):
        count, n = int(some["flagged"].sum()), len(some)
        low, high = wilson(float(count), n, "prompts")
        rows.append(
            {"source": source, "label": label, "n": n, "fpr": count / n, "low": low, "high": high}
        )
    return pd.DataFrame(rows)
