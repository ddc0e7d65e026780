"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, ReportInputs, no_chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _function() -> "Callable[..., Finding]":
    from analyses.backdoor.run import backdoor

    return backdoor


def _drawing() -> "Drawing":
    from analyses.backdoor.figures import DRAWING

    return DRAWING


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.backdoor.material import of_organism, of_sets
    from analyses.backdoor.run import backdoor
    from analyses.shared.data import organism_of

    harmful, harmless = (inputs.prompts.get(label) for label in ("harmful", "harmless"))
    organism = organism_of(inputs.checkpoint.name)
    own = organism is not None and harmful is None and harmless is None
    return backdoor(
        inputs.checkpoint,
        of_organism(organism) if own and organism else of_sets(harmless, harmful, inputs.seed),
        twin=inputs.reference,
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
    in_report=_in_report,
)
