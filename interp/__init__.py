"""The ground floor: checkpoints, sites, capture, attention statistics, interventions."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp import capture as capture
    from interp import interventions as interventions
    from interp import organisms as organisms
    from interp import prompt_sets as prompt_sets
    from interp import prompts as prompts
    from interp import recorders as recorders
    from interp import segments as segments
    from interp.anatomy import Anatomy as Anatomy
    from interp.attention import observe as observe
    from interp.checkpoint import Checkpoint as Checkpoint
    from interp.checkpoint import load as load
    from interp.errors import CheckError as CheckError
    from interp.errors import InputError as InputError
    from interp.errors import MechguardError as MechguardError
    from interp.errors import UnsupportedModelError as UnsupportedModelError
    from interp.named_sets import named as named
    from interp.sites import Site as Site

__getattr__, __all__ = attach(
    __name__,
    {
        "Anatomy": "anatomy",
        "CheckError": "errors",
        "Checkpoint": "checkpoint",
        "InputError": "errors",
        "MechguardError": "errors",
        "Site": "sites",
        "UnsupportedModelError": "errors",
        "capture": "",
        "interventions": "",
        "load": "checkpoint",
        "named": "named_sets",
        "observe": "attention",
        "organisms": "",
        "prompt_sets": "",
        "prompts": "",
        "recorders": "",
        "segments": "",
    },
)
