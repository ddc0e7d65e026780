"""Files of rows and data sets by name."""

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from interp.data.sources import csv_table, from_data_set, parquet_table
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


def test_broken_text_within_a_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame({"text": ["unmistakeable", "other"]}).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"unmistakeable", b"unmistake\xffble"))
    with pytest.raises(ValueError, match=r"decode byte 0xff|Wrapping unmistake"):
        parquet_table(path)
