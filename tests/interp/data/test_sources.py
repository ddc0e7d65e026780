"""Files of rows and data sets by name."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from interp.data.sources import csv_table, from_data_set
from interp.errors import InputError


def test_cells_stay_strings(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,n\nNA,1\n,02\n")
    assert csv_table(tmp_path / "x.csv").to_numpy().tolist() == [["NA", "1"], ["", "02"]]


def test_a_data_set_is_read_by_name_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> dict[str, Any]:
        asked.append((name, split))
        return {"text": ["hello"]}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert from_data_set("a/b:test", lambda loaded: loaded["text"]) == ["hello"]
    assert from_data_set("a/b", len) == 1
    assert asked == [("a/b", "test"), ("a/b", "train")]
    with pytest.raises(InputError, match=r"^a/b is neither a file nor a table that can be loaded"):
        from_data_set("a/b", lambda loaded: loaded["nothing"], "table")
