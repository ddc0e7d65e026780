"""Probes read: directions, estimators, guards, detectors and repair stand on this floor."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes import backdoors as backdoors
    from probes import scorers as scorers
    from probes.backdoors.repair.report import FineTuning as FineTuning
    from probes.backdoors.repair.report import RepairReport as RepairReport
    from probes.backdoors.repair.report import persistence as persistence
    from probes.backdoors.repair.tune import RepairPlan as RepairPlan
    from probes.backdoors.repair.tune import save_repaired as save_repaired
    from probes.cliff.example_selection import export_selected as export_selected
    from probes.collections.collection import Collection as Collection
    from probes.collections.collection import collect as collect
    from probes.collections.fit import fit_probe as fit_probe
    from probes.collections.fitted_probe import FittedProbe as FittedProbe
    from probes.collections.plan import plan_collection as plan_collection
    from probes.directions.directions import Cells as Cells
    from probes.directions.directions import Direction as Direction
    from probes.directions.directions import Directions as Directions
    from probes.directions.directions import difference_in_means as difference_in_means
    from probes.directions.directions import harmfulness_directions as harmfulness_directions
    from probes.directions.directions import read_published as read_published
    from probes.directions.directions import refusal_directions as refusal_directions
    from probes.directions.selection import Selection as Selection
    from probes.directions.selection import score_candidates as score_candidates
    from probes.directions.selection import select as select
    from probes.estimators.aggregation import aggregator as aggregator
    from probes.estimators.grid import ProbeGrid as ProbeGrid
    from probes.estimators.linear import estimator as estimator
    from probes.estimators.mass_mean import MassMean as MassMean
    from probes.estimators.stacking import StackedProbe as StackedProbe
    from probes.estimators.token_probe import TokenProbe as TokenProbe
    from probes.guards.cascade import Band as Band
    from probes.guards.cascade import Cascade as Cascade
    from probes.guards.guard import Guard as Guard
    from probes.guards.latent_guard import LatentGuard as LatentGuard
    from probes.heads.head_attribution import head_contributions as head_contributions
    from probes.statistics.floors import last_token_floor as last_token_floor
    from probes.statistics.floors import length_floor as length_floor
    from probes.statistics.floors import lexical_floor as lexical_floor
    from probes.statistics.floors import surface_caveats as surface_caveats
    from probes.statistics.metrics import auroc as auroc
    from probes.statistics.metrics import threshold_for_fpr as threshold_for_fpr
    from probes.statistics.metrics import tpr_at_fpr as tpr_at_fpr
    from probes.statistics.nulls import random_direction_null as random_direction_null
    from probes.statistics.nulls import random_vectors as random_vectors
    from probes.statistics.nulls import selectivity as selectivity
    from probes.statistics.nulls import shuffled_label_null as shuffled_label_null

__getattr__, __all__ = attach(
    __name__,
    {
        "Band": "guards.cascade",
        "Cascade": "guards.cascade",
        "Cells": "directions.directions",
        "Collection": "collections.collection",
        "Direction": "directions.directions",
        "Directions": "directions.directions",
        "FineTuning": "backdoors.repair.report",
        "FittedProbe": "collections.fitted_probe",
        "Guard": "guards.guard",
        "LatentGuard": "guards.latent_guard",
        "MassMean": "estimators.mass_mean",
        "ProbeGrid": "estimators.grid",
        "RepairPlan": "backdoors.repair.tune",
        "RepairReport": "backdoors.repair.report",
        "Selection": "directions.selection",
        "StackedProbe": "estimators.stacking",
        "TokenProbe": "estimators.token_probe",
        "aggregator": "estimators.aggregation",
        "auroc": "statistics.metrics",
        "backdoors": "",
        "collect": "collections.collection",
        "difference_in_means": "directions.directions",
        "estimator": "estimators.linear",
        "export_selected": "cliff.example_selection",
        "fit_probe": "collections.fit",
        "harmfulness_directions": "directions.directions",
        "head_contributions": "heads.head_attribution",
        "last_token_floor": "statistics.floors",
        "length_floor": "statistics.floors",
        "lexical_floor": "statistics.floors",
        "persistence": "backdoors.repair.report",
        "plan_collection": "collections.plan",
        "random_direction_null": "statistics.nulls",
        "random_vectors": "statistics.nulls",
        "read_published": "directions.directions",
        "refusal_directions": "directions.directions",
        "save_repaired": "backdoors.repair.tune",
        "score_candidates": "directions.selection",
        "scorers": "",
        "select": "directions.selection",
        "selectivity": "statistics.nulls",
        "shuffled_label_null": "statistics.nulls",
        "surface_caveats": "statistics.floors",
        "threshold_for_fpr": "statistics.metrics",
        "tpr_at_fpr": "statistics.metrics",
    },
)
