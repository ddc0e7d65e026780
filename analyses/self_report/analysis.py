"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, Facts, ReportInputs, no_chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.report.panel import Drawing
    from analyses.self_report.report import SelfReportReport
    from analyses.shared.finding import Finding


def _missing(facts: Facts) -> str | None:
    if (why := no_chat_template(facts)) is not None:
        return why
    if "reference" not in facts.given:
        return "nothing is claimed without a reference model; name one with --reference"
    return None


def _function() -> "Callable[..., Finding]":
    from analyses.self_report.run import self_report

    return self_report


def _report() -> "type[SelfReportReport]":
    from analyses.self_report.report import SelfReportReport

    return SelfReportReport


def _drawing() -> "Drawing":
    from analyses.self_report.figures import DRAWING

    return DRAWING


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.self_report.run import self_report

    return self_report(
        inputs.checkpoint,
        reference=inputs.reference,
        seed=inputs.seed,
        workdir=inputs.workdir,
        command=inputs.command,
        progress=inputs.progress,
        **inputs.settings.get("self-report", {}),
    )


ANALYSIS = Analysis(
    kind="self-report",
    summary="what a model says about hidden behaviour, beside a reference model",
    place=50,
    verb="self-report",
    missing=_missing,
    function=_function,
    drawing=_drawing,
    report=_report,
    in_report=_in_report,
)
