"""A finding: the frozen result of one analysis."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.report.panel import Drawing
from analyses.report.text import escape

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Finding:
    """What `report.json` holds, and the tables that stand beside it as CSV.

    `report` has at least `kind`, `format_version`, `verdict`, `provenance` and `caveats`.
    """

    report: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which analysis this is."""
        return str(self.report["kind"])

    @property
    def verdict(self) -> str:
        """The result in one to three sentences."""
        return str(self.report["verdict"])

    @property
    def caveats(self) -> list[str]:
        """What the finding does not establish."""
        return list(self.report["caveats"])

    def to_dict(self) -> dict[str, Any]:
        """The report in the types of strict JSON; NaN becomes None."""
        from analyses.report.writing import plain

        found: dict[str, Any] = plain(self.report)
        return found

    def to_json(self) -> str:
        """The report as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def figures(self) -> dict[str, "go.Figure"]:
        """Every figure of the report page, by its title."""
        drawn = self.drawing().panels(self.to_dict())
        return {panel.title: panel.figure for panel in drawn if panel.figure is not None}

    @classmethod
    def drawing(cls) -> Drawing:
        """How findings of this kind are shown on a page."""
        from analyses.report.page import recorded

        return Drawing(cls.__name__.removesuffix("Finding"), recorded)

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write `report.html`, `report.json` and `tables/KIND/*.csv`; returns the page's path.

        Args:
            directory: made if absent.
            overwrite: replace the report of another run.

        Raises:
            InputError: the folder cannot be written to, or holds the report of another run.
        """
        from analyses.report.writing import write

        return write(
            self.report,
            {self.kind: self.tables},
            {self.kind: self.drawing()},
            Path(directory),
            overwrite=overwrite,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.verdict}"

    def _repr_html_(self) -> str:
        caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in self.caveats)
        tables = "".join(
            f"<h4>{escape(name)} ({len(table)} rows)</h4>{table.head(10).to_html(index=False)}"
            for name, table in self.tables.items()
            if len(table)
        )
        return f"<p><b>{escape(self.verdict)}</b></p><ul>{caveats}</ul>{tables}"
