"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, ReportInputs, no_chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.backdoor.report import BackdoorReport
    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _function() -> "Callable[..., Finding]":
    from analyses.backdoor.run import backdoor

    return backdoor


def _drawing() -> "Drawing":
    from analyses.backdoor.figures import DRAWING

    return DRAWING


def _report() -> "type[BackdoorReport]":
    from analyses.backdoor.report import BackdoorReport

    return BackdoorReport


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.backdoor.material import LABELS
    from analyses.backdoor.run import backdoor

    return backdoor(
        inputs.checkpoint,
        {label: inputs.prompts.get(label) for label in LABELS},
        reference=inputs.reference,
        seed=inputs.seed,
        seconds=inputs.seconds,
        workdir=inputs.workdir,
        command=inputs.command,
        progress=inputs.progress,
        **inputs.settings.get("backdoor", {}),
    )


ANALYSIS = Analysis(
    kind="backdoor",
    summary="a string that works as a trigger, within a stated budget",
    place=40,
    verb="backdoor",
    missing=no_chat_template,
    function=_function,
    drawing=_drawing,
    report=_report,
    in_report=_in_report,
)
