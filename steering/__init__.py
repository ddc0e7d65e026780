"""Policies steer: gates, controllers and the inference runtime stand on this floor."""

from typing import TYPE_CHECKING

from interp._lazy import attach as _attach

if TYPE_CHECKING:
    from steering.policy.composition import Composition as Composition
    from steering.policy.composition import compose as compose
    from steering.policy.composition import per_row as per_row
    from steering.policy.methods import angular as angular
    from steering.policy.methods import rank_one as rank_one
    from steering.policy.policy import Policy as Policy
    from steering.runtime.attachment import Attachment as Attachment
    from steering.runtime.decisions import Decision as Decision
    from steering.runtime.gates import AlwaysOpen as AlwaysOpen
    from steering.runtime.gates import ControllerGate as ControllerGate
    from steering.runtime.gates import CosineGate as CosineGate
    from steering.runtime.gates import Gate as Gate
    from steering.runtime.gates import LogisticGate as LogisticGate
    from steering.runtime.runtime import apply as apply
    from steering.runtime.runtime import as_edit as as_edit
    from steering.runtime.runtime import attach as attach
    from steering.runtime.span import Span as Span
    from steering.training.examples import TrainingSet as TrainingSet
    from steering.training.fit import train as train
    from steering.training.methods.actadd import act_add as act_add
    from steering.training.methods.alphasteer import alphasteer as alphasteer
    from steering.training.methods.cast import cast as cast
    from steering.training.methods.was import was as was
    from steering.training.methods.was_plus import was_plus as was_plus

__getattr__, __all__ = _attach(
    __name__,
    {
        "AlwaysOpen": "runtime.gates",
        "Attachment": "runtime.attachment",
        "Composition": "policy.composition",
        "ControllerGate": "runtime.gates",
        "CosineGate": "runtime.gates",
        "Decision": "runtime.decisions",
        "Gate": "runtime.gates",
        "LogisticGate": "runtime.gates",
        "Policy": "policy.policy",
        "Span": "runtime.span",
        "TrainingSet": "training.examples",
        "act_add": "training.methods.actadd",
        "alphasteer": "training.methods.alphasteer",
        "angular": "policy.methods",
        "apply": "runtime.runtime",
        "as_edit": "runtime.runtime",
        "attach": "runtime.runtime",
        "cast": "training.methods.cast",
        "compose": "policy.composition",
        "per_row": "policy.composition",
        "rank_one": "policy.methods",
        "train": "training.fit",
        "was": "training.methods.was",
        "was_plus": "training.methods.was_plus",
    },
)
