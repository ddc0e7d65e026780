"""The list of analyses: one folder each, which says of itself what it is in `analysis.py`.

The command line, `plan`, `report`, the page and the schemas read this list and name no analysis
themselves, so a new folder is all that a new analysis needs here.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from analyses.report.panel import Drawing
from analyses.shared.analysis import Analysis
from interp.errors import InputError


@cache
def every_analysis() -> tuple[Analysis, ...]:
    """All analyses, in the order in which a page shows them.

    Raises:
        ValueError: two have the same kind.
    """
    found = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        name = f"analyses.{module.name}.analysis"
        if module.ispkg and module.name != "shared" and find_spec(name) is not None:
            found.append(importlib.import_module(name).ANALYSIS)
    kinds = [one.kind for one in found]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"two analyses have the same kind, among {', '.join(sorted(kinds))}")
    return tuple(sorted(found, key=lambda one: one.place))


def analysis(kind: str) -> Analysis:
    """The analysis of a kind.

    Raises:
        InputError: there is none.
    """
    for one in every_analysis():
        if one.kind == kind:
            return one
    known = ", ".join(one.kind for one in every_analysis())
    raise InputError(f"there is no analysis {kind!r}; there are {known}.")


def drawings(report: Mapping[str, Any]) -> dict[str, Drawing]:
    """How the findings of a report are shown, by their kind.

    Args:
        report: what `report.json` holds, of one finding or of several.
    """
    kinds = {report.get("kind"), *(report.get("findings") or ())}
    return {one.kind: one.drawing() for one in every_analysis() if one.kind in kinds}
