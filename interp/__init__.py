"""The ground floor: models, rows of tokens, capture, attention statistics, interventions."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp import capture as capture
    from interp import data as data
    from interp import interventions as interventions
    from interp import organisms as organisms
    from interp.attention.statistics import observe as observe
    from interp.checkpoint import Checkpoint as Checkpoint
    from interp.data.named_sets import named as named
    from interp.errors import CheckError as CheckError
    from interp.errors import InputError as InputError
    from interp.errors import MechguardError as MechguardError
    from interp.errors import UnsupportedModelError as UnsupportedModelError
    from interp.model.anatomy import Anatomy as Anatomy
    from interp.model.sites import Site as Site
    from interp.resolve import load as load

__getattr__, __all__ = attach(
    __name__,
    {
        "Anatomy": "model.anatomy",
        "CheckError": "errors",
        "Checkpoint": "checkpoint",
        "InputError": "errors",
        "MechguardError": "errors",
        "Site": "model.sites",
        "UnsupportedModelError": "errors",
        "capture": "",
        "data": "",
        "interventions": "",
        "load": "resolve",
        "named": "data.named_sets",
        "observe": "attention.statistics",
        "organisms": "",
    },
)
