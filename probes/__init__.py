"""Probes read: directions, estimators, guards and detectors stand on this floor."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes.estimators import MassMean as MassMean
    from probes.grid import ProbeGrid as ProbeGrid

__getattr__, __all__ = attach(__name__, {"MassMean": "estimators", "ProbeGrid": "grid"})
