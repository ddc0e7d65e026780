"""What the registry says of this analysis."""

from typing import TYPE_CHECKING, Any

from analyses.shared.analysis import Analysis, ReportInputs, no_chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _function() -> "Callable[..., Finding]":
    from analyses.refusal.run import refusal

    return refusal


def _report() -> type[Any]:
    from analyses.refusal.report import RefusalReport

    return RefusalReport


def _drawing() -> "Drawing":
    from analyses.refusal.figures.panels import DRAWING

    return DRAWING


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.refusal.material import material_of
    from analyses.refusal.run import refusal

    labels = ("harmful", "harmless", "alarming")
    prompts = {label: some for label, some in inputs.prompts.items() if label in labels}
    return refusal(
        inputs.checkpoint,
        material_of(inputs.checkpoint.name, prompts, limit=inputs.limit, seed=inputs.seed),
        max_new_tokens=inputs.max_new_tokens,
        seed=inputs.seed,
        workdir=inputs.workdir,
        command=inputs.command,
        progress=inputs.progress,
        **inputs.settings.get("refusal", {}),
    )


ANALYSIS = Analysis(
    kind="refusal",
    summary="harmfulness, refusal, and what the refusal direction does",
    place=20,
    verb="refusal",
    missing=no_chat_template,
    function=_function,
    report=_report,
    drawing=_drawing,
    in_report=_in_report,
)
