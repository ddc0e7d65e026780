"""Tables from the rows of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import pandas as pd

from analyses.shared.reports import NotMeasured

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def frame(rows: Sequence[T], kind: type[T]) -> pd.DataFrame:
    """One row of the table for each row, one column for each field.

    A column of numbers that may be absent holds NaN where they are; any other holds None.

    Args:
        rows: of a report.
        kind: their class, which names the columns even where there are no rows.
    """
    hints = get_type_hints(kind)
    columns = {field.name: hints[field.name] for field in fields(kind)}
    return pd.DataFrame({name: _column(rows, name, hint) for name, hint in columns.items()})


def _column(rows: Sequence[Any], name: str, hint: Any) -> pd.Series[Any]:
    values = [getattr(row, name) for row in rows]
    known = [None if isinstance(value, NotMeasured) else value for value in values]
    if hint is float or float in get_args(hint):
        return pd.Series(known, dtype=float)
    return pd.Series(known) if known else pd.Series(known, dtype=object)
