"""What the registry says of this analysis."""

from typing import TYPE_CHECKING

from analyses.shared.analysis import Analysis, Facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.bigram_backcopy.report import BigramBackcopyReport
    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _missing(facts: Facts) -> str | None:
    return "follows the training of small models of our own; run it from Python"


def _function() -> "Callable[..., Finding]":
    from analyses.bigram_backcopy.dynamics import bigram_backcopy

    return bigram_backcopy


def _drawing() -> "Drawing":
    from analyses.bigram_backcopy.figures import DRAWING

    return DRAWING


def _report() -> "type[BigramBackcopyReport]":
    from analyses.bigram_backcopy.report import BigramBackcopyReport

    return BigramBackcopyReport


ANALYSIS = Analysis(
    kind="bigram_backcopy",
    summary="how sinks, drains and peaks come about in training",
    place=90,
    verb=None,
    missing=_missing,
    function=_function,
    drawing=_drawing,
    report=_report,
)
