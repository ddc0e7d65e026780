"""How well a detector does on models whose truth is known.

`score(detector, families, seeds)` runs it on planted organisms and their twins and says how far it
tells them apart, what it recovers of the trigger, and whether it beats what novelty alone gives.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp.organisms.scoring.families import FAMILIES as FAMILIES
    from interp.organisms.scoring.families import Family as Family
    from interp.organisms.scoring.families import backdoor_family as backdoor_family
    from interp.organisms.scoring.families import poison_shares as poison_shares
    from interp.organisms.scoring.harness import Detection as Detection
    from interp.organisms.scoring.harness import Detector as Detector
    from interp.organisms.scoring.harness import Suspect as Suspect
    from interp.organisms.scoring.harness import score as score
    from interp.organisms.scoring.scorecard import Scorecard as Scorecard

__getattr__, __all__ = attach(
    __name__,
    {
        "Detection": "harness",
        "Detector": "harness",
        "FAMILIES": "families",
        "Family": "families",
        "Scorecard": "scorecard",
        "Suspect": "harness",
        "backdoor_family": "families",
        "poison_shares": "families",
        "score": "harness",
    },
)
