"""Probes read: directions, estimators, guards and detectors stand on this floor."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes.estimators import MassMean as MassMean
    from probes.grid import ProbeGrid as ProbeGrid
    from probes.metrics import auroc as auroc
    from probes.metrics import threshold_for_fpr as threshold_for_fpr
    from probes.metrics import tpr_at_fpr as tpr_at_fpr

__getattr__, __all__ = attach(
    __name__,
    {
        "MassMean": "estimators",
        "ProbeGrid": "grid",
        "auroc": "metrics",
        "threshold_for_fpr": "metrics",
        "tpr_at_fpr": "metrics",
    },
)
