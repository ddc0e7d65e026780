"""Tables of a finding, from the same dataclasses as its report."""

from collections.abc import Sequence
from dataclasses import fields
from math import nan
from typing import Any

import pandas as pd

from analyses.shared.reports import NotMeasured


def frame_of(rows: Sequence[Any]) -> pd.DataFrame:
    """A row of a table for each dataclass of one type.

    An interval becomes two columns of numbers, `interval` `low` and `high`, and `x_interval`
    `x_low` and `x_high`. What was not measured is missing.

    Args:
        rows: dataclasses; none makes an empty table.
    """
    if not rows:
        return pd.DataFrame()
    columns: dict[str, Any] = {}
    for name in (field.name for field in fields(rows[0])):
        values = [_or_none(getattr(row, name)) for row in rows]
        if name == "interval" or name.endswith("_interval"):
            stem = name.removesuffix("interval")
            columns[f"{stem}low"] = [nan if pair is None else pair[0] for pair in values]
            columns[f"{stem}high"] = [nan if pair is None else pair[1] for pair in values]
        else:
            columns[name] = _column(values)
    return pd.DataFrame(columns)


def _or_none(value: Any) -> Any:
    return None if isinstance(value, NotMeasured) else value


def _column(values: list[Any]) -> Any:
    """Counts stay whole numbers where some are missing."""
    present = [value for value in values if value is not None]
    counts = all(isinstance(value, int) and not isinstance(value, bool) for value in present)
    return pd.array(values, dtype="Int64") if counts and len(present) < len(values) else values
