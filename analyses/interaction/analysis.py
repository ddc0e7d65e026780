"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, Facts, no_chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.interaction.report import InteractionReport
    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _missing(facts: Facts) -> str | None:
    if (why := no_chat_template(facts)) is not None:
        return why
    if "switches" not in facts.given:
        return "needs two suspected switches; name them with --first and --second"
    return None


def _function() -> "Callable[..., Finding]":
    from analyses.interaction.run import interaction

    return interaction


def _report() -> "type[InteractionReport]":
    from analyses.interaction.report import InteractionReport

    return InteractionReport


def _drawing() -> "Drawing":
    from analyses.interaction.figures import DRAWING

    return DRAWING


ANALYSIS = Analysis(
    kind="interaction",
    summary="whether two suspected switches do more together",
    place=60,
    verb="interaction",
    missing=_missing,
    function=_function,
    drawing=_drawing,
    report=_report,
)
