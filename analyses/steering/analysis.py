"""What the registry says of this analysis."""

from typing import TYPE_CHECKING, Any

from analyses.shared.analysis import Analysis, Facts, ReportInputs, no_chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding


def _missing(facts: Facts) -> str | None:
    if (why := no_chat_template(facts)) is not None:
        return why
    if "policies" not in facts.given:
        return "needs a policy; name one with --policy"
    return None


def _function() -> "Callable[..., Finding]":
    from analyses.steering.run import steering

    return steering


def _report() -> type[Any]:
    from analyses.steering.report import SteeringReport

    return SteeringReport


def _drawing() -> "Drawing":
    from analyses.steering.figures import DRAWING

    return DRAWING


def _in_report(inputs: ReportInputs) -> "Finding":
    from analyses.steering.material import tests_of
    from analyses.steering.run import steering

    return steering(
        inputs.checkpoint,
        inputs.policies,
        tests_of(inputs.checkpoint.name, inputs.prompts, inputs.limit),
        max_new_tokens=inputs.max_new_tokens,
        seed=inputs.seed,
        allow=inputs.allow,
        command=inputs.command,
        progress=inputs.progress,
        **inputs.settings.get("steering", {}),
    )


ANALYSIS = Analysis(
    kind="steering",
    summary="what policies refuse, what they refuse too much, and what they cost",
    place=80,
    verb="steer",
    missing=_missing,
    function=_function,
    report=_report,
    drawing=_drawing,
    in_report=_in_report,
)
