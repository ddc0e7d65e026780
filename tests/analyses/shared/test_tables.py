"""Tables from dataclasses: intervals are two columns, what is missing stays so."""

from dataclasses import dataclass

import pytest

from analyses.shared.reports import NotMeasured
from analyses.shared.tables import frame_of, rows_of


@dataclass(frozen=True)
class _Row:
    name: str
    count: int | None
    share: float | NotMeasured
    interval: tuple[float, float] | None
    share_interval: tuple[float, float] | NotMeasured


@dataclass(frozen=True)
class _Pair:
    name: str
    value: float


_ABSENT = NotMeasured("nothing was asked")


def test_intervals_become_two_columns_of_numbers() -> None:
    frame = frame_of(
        [_Row("a", 3, 0.5, (0.25, 0.75), (0.0, 1.0)), _Row("b", None, _ABSENT, None, _ABSENT)]
    )
    assert list(frame) == ["name", "count", "share", "low", "high", "share_low", "share_high"]
    assert frame["low"].tolist()[0] == 0.25 and frame["share_high"].tolist()[0] == 1.0
    assert frame.isna().to_numpy().tolist() == [[False] * 7, [False] + [True] * 6]
    assert str(frame["count"].dtype) == "Int64" and frame["share"].dtype == float


def test_columns_of_intervals_are_there_where_no_row_has_one() -> None:
    frame = frame_of([_Row("a", 3, 0.5, None, _ABSENT)])
    assert frame[["low", "high", "share_low", "share_high"]].isna().all(axis=None)
    assert len(frame_of([])) == 0
    assert list(frame_of([], _Row)) == list(frame)


def test_rows_come_back_from_a_table() -> None:
    rows = (_Pair("a", 1.0), _Pair("b", 2.0))
    assert rows_of(frame_of(rows), _Pair) == rows
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        rows_of(frame_of(rows).assign(other=1), _Pair)
