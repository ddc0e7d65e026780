"""Tables of a finding, from the same dataclasses as its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from math import nan
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import pandas as pd

from analyses.shared.reports import NotMeasured

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")


def frame_of(rows: Iterable[RowT], kind: type[RowT] | None = None) -> pd.DataFrame:
    """A row of a table for each dataclass of one type, and a column for each of its fields.

    An interval becomes two columns of numbers: `interval` becomes `low` and `high`, and
    `x_interval` becomes `x_low` and `x_high`. What was not measured is missing.

    Args:
        rows: of a report.
        kind: their class; it names the columns where there are no rows.
    """
    given = list(rows)
    if kind is None and not given:
        return pd.DataFrame()
    shape = kind or type(given[0])
    hints = get_type_hints(shape)
    columns: dict[str, Any] = {}
    for name in (field.name for field in fields(shape)):
        values = [_or_none(getattr(row, name)) for row in given]
        if name == "interval" or name.endswith("_interval"):
            stem = name.removesuffix("interval")
            columns[f"{stem}low"] = [nan if pair is None else pair[0] for pair in values]
            columns[f"{stem}high"] = [nan if pair is None else pair[1] for pair in values]
        else:
            columns[name] = _column(values, hints[name])
    return pd.DataFrame(columns)


def rows_of(table: pd.DataFrame, kind: type[RowT]) -> tuple[RowT, ...]:
    """A dataclass for each row of a table, in order.

    Args:
        table: whose columns are the fields of `kind`, all of them and no other.
        kind: a dataclass.

    Raises:
        TypeError: a column is missing, or is no field.
    """
    return tuple(kind(**{str(k): v for k, v in row.items()}) for row in table.to_dict("records"))


def _or_none(value: Any) -> Any:
    return None if isinstance(value, NotMeasured) else value


def _column(values: list[Any], hint: Any) -> Any:
    """Numbers that may be absent hold NaN there; counts stay whole, with pandas' missing value."""
    if hint is float or float in get_args(hint):
        return pd.Series(values, dtype=float)
    present = [value for value in values if value is not None]
    counts = all(isinstance(value, int) and not isinstance(value, bool) for value in present)
    if counts and present and len(present) < len(values):
        return pd.array(values, dtype="Int64")
    return pd.Series(values) if values else pd.Series(values, dtype=object)
