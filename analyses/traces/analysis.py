"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, Facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding
    from analyses.traces.report import TracesReport


def _missing(facts: Facts) -> str | None:
    if "traces" not in facts.given:
        return "reads traces of an agent, not a checkpoint"
    return None


def _function() -> "Callable[..., Finding]":
    from analyses.traces.run import traces

    return traces


def _report() -> "type[TracesReport]":
    from analyses.traces.report import TracesReport

    return TracesReport


def _drawing() -> "Drawing":
    from analyses.traces.figures import DRAWING

    return DRAWING


ANALYSIS = Analysis(
    kind="traces",
    summary="what shifts between two runs of an agent",
    place=70,
    verb="traces",
    missing=_missing,
    function=_function,
    drawing=_drawing,
    report=_report,
)
