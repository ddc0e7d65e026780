"""Tables from the rows of a report."""

from dataclasses import dataclass

from analyses.shared.frames import frame
from analyses.shared.reports import NotMeasured


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    share: float | None
    loss: float | NotMeasured
    interval: tuple[float, float] | NotMeasured
    sink: bool | None


ABSENT = NotMeasured("nobody looked")


def test_a_column_for_each_field() -> None:
    table = frame([Row("a", 2, 0.5, 1, (0.1, 0.2), True), Row("b", 3, 0.25, 2, (0, 1), False)], Row)
    assert list(table.columns) == ["name", "count", "share", "loss", "interval", "sink"]
    assert table["count"].tolist() == [2, 3] and table["loss"].dtype == float
    assert table["interval"].tolist() == [(0.1, 0.2), (0, 1)]


def test_absent_numbers_are_nan_and_all_else_is_none() -> None:
    table = frame([Row("a", 2, None, ABSENT, ABSENT, None)], Row)
    assert table["share"].dtype == table["loss"].dtype == float
    assert table["share"].isna().all() and table["loss"].isna().all()
    assert table["interval"].tolist() == [None] and table["sink"].tolist() == [None]


def test_without_rows_the_columns_stay() -> None:
    table = frame([], Row)
    assert table.empty and "interval" in table.columns
