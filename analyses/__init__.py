"""The top floor: findings, reports and the command line.

The analyses themselves are functions of `mechguard`.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from analyses.cliff.finding import CliffFinding as CliffFinding
    from analyses.refusal.finding import RefusalFinding as RefusalFinding
    from analyses.sinks.finding import SinkFinding as SinkFinding
    from analyses.steering.finding import SteeringFinding as SteeringFinding

__getattr__, __all__ = attach(
    __name__,
    {
        "CliffFinding": "cliff.finding",
        "RefusalFinding": "refusal.finding",
        "SinkFinding": "sinks.finding",
        "SteeringFinding": "steering.finding",
    },
)
