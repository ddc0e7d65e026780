"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, Facts, ReportInputs, no_chat_template
from interp.data.thoughts import may_think

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.cliff.report import CliffReport
    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _missing(facts: Facts) -> str | None:
    if (why := no_chat_template(facts)) is not None:
        return why
    if not may_think(facts.chat_template or ""):
        return "the chat template knows no thoughts"
    return None


def _function() -> "Callable[..., Finding]":
    from analyses.cliff.run import cliff

    return cliff


def _drawing() -> "Drawing":
    from analyses.cliff.figures import DRAWING

    return DRAWING


def _report() -> "type[CliffReport]":
    from analyses.cliff.report import CliffReport

    return CliffReport


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.cliff.material import LABELS
    from analyses.cliff.run import cliff

    return cliff(
        inputs.checkpoint,
        {label: inputs.prompts.get(label) for label in LABELS},
        max_new_tokens=inputs.max_new_tokens,
        seed=inputs.seed,
        limit=inputs.limit,
        workdir=inputs.workdir,
        command=inputs.command,
        progress=inputs.progress,
        **inputs.settings.get("cliff", {}),
    )


ANALYSIS = Analysis(
    kind="cliff",
    summary="whether refusal falls at the end of a thought, and which heads let it fall",
    place=30,
    verb="cliff",
    missing=_missing,
    function=_function,
    drawing=_drawing,
    report=_report,
    in_report=_in_report,
)
