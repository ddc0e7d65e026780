"""Reversible edits of a forward pass, as context managers on sites."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp.interventions.edits_by_site import add_vector as add_vector
    from interp.interventions.edits_by_site import (
        drop_massive_activation as drop_massive_activation,
    )
    from interp.interventions.edits_by_site import move_to_sink as move_to_sink
    from interp.interventions.edits_by_site import patch as patch
    from interp.interventions.edits_by_site import perturb_heads as perturb_heads
    from interp.interventions.edits_by_site import scale_heads as scale_heads
    from interp.interventions.edits_by_site import zero_heads as zero_heads

__getattr__, __all__ = attach(
    __name__,
    {
        "add_vector": "edits_by_site",
        "drop_massive_activation": "edits_by_site",
        "move_to_sink": "edits_by_site",
        "patch": "edits_by_site",
        "perturb_heads": "edits_by_site",
        "scale_heads": "edits_by_site",
        "zero_heads": "edits_by_site",
    },
)
