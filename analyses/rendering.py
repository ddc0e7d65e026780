"""Rebuilding the page of a report from its JSON, without the model."""

from pathlib import Path

from analyses.registry import analysis, drawings
from analyses.report.folder import read_report
from analyses.report.page import page
from analyses.report.writing import replace
from interp.errors import InputError


def render(directory: str | Path) -> Path:
    """Rebuild `report.html` in `directory` from its `report.json`.

    Args:
        directory: what an earlier run was given as `--out`.

    Returns:
        The path of the page, which replaces an older one in a single step.

    Raises:
        InputError: `report.json` is missing, not readable as JSON, of an unknown format version
            or lacks what its kind needs.
    """
    directory = Path(directory)
    report = read_report(directory / "report.json")
    if "findings" not in report:  # a report of one kind, which must be one of ours
        analysis(str(report["kind"]))
    try:
        html = page(report, drawings(report))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{directory / 'report.json'} cannot be drawn ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): it was edited or is incomplete; run the analysis "
            "again to write it anew."
        ) from error
    replace({"report.html": html}, directory)
    return directory / "report.html"
