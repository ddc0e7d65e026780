"""Policies steer: gates, controllers and the inference runtime stand on this floor."""

from typing import TYPE_CHECKING

from interp._lazy import attach as _attach

if TYPE_CHECKING:
    from steering.attachment import Attachment as Attachment
    from steering.attachment import Decision as Decision
    from steering.composition import Composition as Composition
    from steering.composition import compose as compose
    from steering.composition import per_row as per_row
    from steering.examples import TrainingSet as TrainingSet
    from steering.gates import AlwaysOpen as AlwaysOpen
    from steering.gates import ControllerGate as ControllerGate
    from steering.gates import CosineGate as CosineGate
    from steering.gates import Gate as Gate
    from steering.gates import LogisticGate as LogisticGate
    from steering.methods import act_add as act_add
    from steering.methods import alphasteer as alphasteer
    from steering.methods import angular as angular
    from steering.methods import cast as cast
    from steering.methods import rank_one as rank_one
    from steering.methods import was as was
    from steering.methods import was_plus as was_plus
    from steering.policy import Policy as Policy
    from steering.policy import Span as Span
    from steering.runtime import apply as apply
    from steering.runtime import as_edit as as_edit
    from steering.runtime import attach as attach
    from steering.training import train as train

__getattr__, __all__ = _attach(
    __name__,
    {
        "AlwaysOpen": "gates",
        "Attachment": "attachment",
        "Composition": "composition",
        "ControllerGate": "gates",
        "CosineGate": "gates",
        "Decision": "attachment",
        "Gate": "gates",
        "LogisticGate": "gates",
        "Policy": "policy",
        "Span": "policy",
        "TrainingSet": "examples",
        "act_add": "methods",
        "alphasteer": "methods",
        "angular": "methods",
        "apply": "runtime",
        "as_edit": "runtime",
        "attach": "runtime",
        "cast": "methods",
        "compose": "composition",
        "per_row": "composition",
        "rank_one": "methods",
        "train": "training",
        "was": "methods",
        "was_plus": "methods",
    },
)
