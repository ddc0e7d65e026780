"""Rows of reports as tables, and tables of measurements as rows."""

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from analyses.shared.reports import NotMeasured

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")


def table_of(rows: Iterable["DataclassInstance"]) -> pd.DataFrame:
    """A column a field; what was not measured is None.

    Args:
        rows: dataclasses of one kind.
    """
    return pd.DataFrame(
        [{field.name: _cell(getattr(row, field.name)) for field in fields(row)} for row in rows]
    )


def rows_of_table(table: pd.DataFrame, kind: type[RowT]) -> tuple[RowT, ...]:
    """A dataclass a row, in order.

    Args:
        table: whose columns are the fields of `kind`, all of them and no other.
        kind: a dataclass.

    Raises:
        TypeError: a column is missing, or is no field.
    """
    return tuple(kind(**{str(k): v for k, v in row.items()}) for row in table.to_dict("records"))


def _cell(value: Any) -> Any:
    return None if isinstance(value, NotMeasured) else value
