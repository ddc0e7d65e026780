"""Probes read: directions, estimators, guards, detectors and repair stand on this floor.

A function that is named like its module is imported from there: `probes.repair.repair`,
`probes.repair_report.repair_report`.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes import backdoor as backdoor
    from probes import scorers as scorers
    from probes.aggregation import aggregator as aggregator
    from probes.cascade import Band as Band
    from probes.cascade import Cascade as Cascade
    from probes.cliff_judge import export_selected as export_selected
    from probes.collecting import plan_collection as plan_collection
    from probes.directions import Cells as Cells
    from probes.directions import Direction as Direction
    from probes.directions import Directions as Directions
    from probes.directions import difference_in_means as difference_in_means
    from probes.directions import harmfulness_directions as harmfulness_directions
    from probes.directions import read_published as read_published
    from probes.directions import refusal_directions as refusal_directions
    from probes.estimators import MassMean as MassMean
    from probes.fitted import FittedProbe as FittedProbe
    from probes.fitting import fit_probe as fit_probe
    from probes.floors import last_token_floor as last_token_floor
    from probes.floors import length_floor as length_floor
    from probes.floors import lexical_floor as lexical_floor
    from probes.floors import surface_caveats as surface_caveats
    from probes.grid import ProbeGrid as ProbeGrid
    from probes.guard import Guard as Guard
    from probes.head_attribution import head_contributions as head_contributions
    from probes.latent_guard import LatentGuard as LatentGuard
    from probes.linear import estimator as estimator
    from probes.metrics import auroc as auroc
    from probes.metrics import threshold_for_fpr as threshold_for_fpr
    from probes.metrics import tpr_at_fpr as tpr_at_fpr
    from probes.nulls import random_direction_null as random_direction_null
    from probes.nulls import random_vectors as random_vectors
    from probes.nulls import selectivity as selectivity
    from probes.nulls import shuffled_label_null as shuffled_label_null
    from probes.repair import RepairPlan as RepairPlan
    from probes.repair import save_repaired as save_repaired
    from probes.repair_report import FineTuning as FineTuning
    from probes.repair_report import RepairReport as RepairReport
    from probes.repair_report import persistence as persistence
    from probes.selection import Selection as Selection
    from probes.selection import score_candidates as score_candidates
    from probes.selection import select as select
    from probes.stacking import StackedProbe as StackedProbe
    from probes.stored import Collection as Collection
    from probes.stored import collect as collect
    from probes.token_probe import TokenProbe as TokenProbe

__getattr__, __all__ = attach(
    __name__,
    {
        "Band": "cascade",
        "Cascade": "cascade",
        "Cells": "directions",
        "Collection": "stored",
        "Direction": "directions",
        "Directions": "directions",
        "FineTuning": "repair_report",
        "FittedProbe": "fitted",
        "Guard": "guard",
        "LatentGuard": "latent_guard",
        "MassMean": "estimators",
        "ProbeGrid": "grid",
        "RepairPlan": "repair",
        "RepairReport": "repair_report",
        "Selection": "selection",
        "StackedProbe": "stacking",
        "TokenProbe": "token_probe",
        "aggregator": "aggregation",
        "auroc": "metrics",
        "backdoor": "",
        "collect": "stored",
        "difference_in_means": "directions",
        "estimator": "linear",
        "export_selected": "cliff_judge",
        "fit_probe": "fitting",
        "harmfulness_directions": "directions",
        "head_contributions": "head_attribution",
        "last_token_floor": "floors",
        "length_floor": "floors",
        "lexical_floor": "floors",
        "persistence": "repair_report",
        "plan_collection": "collecting",
        "random_direction_null": "nulls",
        "random_vectors": "nulls",
        "read_published": "directions",
        "refusal_directions": "directions",
        "save_repaired": "repair",
        "score_candidates": "selection",
        "scorers": "",
        "select": "selection",
        "selectivity": "nulls",
        "shuffled_label_null": "nulls",
        "surface_caveats": "floors",
        "threshold_for_fpr": "metrics",
        "tpr_at_fpr": "metrics",
    },
)
