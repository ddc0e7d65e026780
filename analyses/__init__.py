"""The top floor: findings, reports and the command line."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from analyses.report.render import render as render
    from analyses.sink_finding.finding import SinkFinding as SinkFinding
    from analyses.sink_finding.run import sinks as sinks

__getattr__, __all__ = attach(
    __name__,
    {
        "SinkFinding": "sink_finding.finding",
        "render": "report.render",
        "sinks": "sink_finding.run",
    },
)
