"""The top floor: findings, reports and the command line."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from analyses.backdoor_finding.run import backdoor as backdoor
    from analyses.cliff_finding.finding import CliffFinding as CliffFinding
    from analyses.cliff_finding.run import cliff as cliff
    from analyses.interaction_finding.run import interaction as interaction
    from analyses.refusal_finding.finding import RefusalFinding as RefusalFinding
    from analyses.refusal_finding.run import refusal as refusal
    from analyses.report.render import render as render
    from analyses.self_report_finding.run import self_report as self_report
    from analyses.sink_finding.finding import SinkFinding as SinkFinding
    from analyses.sink_finding.run import sinks as sinks
    from analyses.steering_finding.finding import SteeringFinding as SteeringFinding
    from analyses.steering_finding.run import steering_report as steering_report
    from analyses.traces_finding.run import traces as traces

__getattr__, __all__ = attach(
    __name__,
    {
        "CliffFinding": "cliff_finding.finding",
        "RefusalFinding": "refusal_finding.finding",
        "SinkFinding": "sink_finding.finding",
        "SteeringFinding": "steering_finding.finding",
        "backdoor": "backdoor_finding.run",
        "cliff": "cliff_finding.run",
        "interaction": "interaction_finding.run",
        "refusal": "refusal_finding.run",
        "render": "report.render",
        "self_report": "self_report_finding.run",
        "sinks": "sink_finding.run",
        "steering_report": "steering_finding.run",
        "traces": "traces_finding.run",
    },
)
