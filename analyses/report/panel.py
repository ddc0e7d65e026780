"""What a finding hands to the page: one titled figure or table with its caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Panel:
    """One block of the report.

    Attributes:
        title: heading of the block; unique within a finding, for the contents list links to it.
        text: the caption in plain sentences: what is shown, n, and what the intervals are.
        figure: drawn without colours of background, text or grid, which the page sets by theme.
        table: shown sortable; column names are the headings.
        csv: file name of the full table in the finding's folder of tables, such as `heads.csv`.
    """

    title: str
    text: str
    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    csv: str | None = None


@dataclass(frozen=True)
class Drawing:
    """How findings of one kind are shown.

    Attributes:
        title: heading of the section.
        panels: from the JSON of a finding to its panels, in order.
    """

    title: str
    panels: Callable[[dict[str, Any]], list[Panel]]


Drawings = Mapping[str, Drawing]
"""By kind of finding."""
