"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, Facts, ReportInputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding
    from analyses.sinks.report import SinkReport


def _missing(facts: Facts) -> str | None:
    if not facts.anatomy.softmax_layers:
        return "no layer has softmax attention"
    if not facts.anatomy.interface:
        return "bypasses transformers' AttentionInterface: only with --attention eager"
    return None


def _function() -> "Callable[..., Finding]":
    from analyses.sinks.run import sinks

    return sinks


def _drawing() -> "Drawing":
    from analyses.sinks.figures import DRAWING

    return DRAWING


def _report() -> "type[SinkReport]":
    from analyses.sinks.report import SinkReport

    return SinkReport


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.sinks.run import sinks

    return sinks(
        inputs.checkpoint,
        inputs.texts or None,
        seed=inputs.seed,
        limit=inputs.limit,
        workdir=inputs.workdir,
        command=inputs.command,
        progress=inputs.progress,
        **inputs.settings.get("sinks", {}),
    )


ANALYSIS = Analysis(
    kind="sinks",
    summary="attention sinks, value drains, residual peaks and gates",
    place=10,
    verb="sinks",
    missing=_missing,
    function=_function,
    drawing=_drawing,
    report=_report,
    in_report=_in_report,
    distributed=True,
)
