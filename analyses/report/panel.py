"""What a finding hands to the page: one titled figure or table with its caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        csv: name of the full table beside the report, such as `tables/heads.csv`.
    """

    title: str
    text: str
    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    csv: str | None = None
