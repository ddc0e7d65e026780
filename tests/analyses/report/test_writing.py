import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.registry import drawings
from analyses.rendering import render
from analyses.report import writing
from analyses.report.writing import plain as strict
from analyses.report.writing import with_bounds
from interp.errors import InputError


def tables(finding: dict[str, Any]) -> dict[str, pd.DataFrame]:
    return {"heads": pd.DataFrame(finding["heads"]), "layers": pd.DataFrame(finding["layers"])}


def write(report: dict[str, Any], frames: dict[str, pd.DataFrame], folder: Path) -> Path:
    """As the sink finding does."""
    return writing.write(report, {"sinks": frames}, drawings(report), folder)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_writes_everything_and_leaves_other_files(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    made = write(full, tables(full), tmp_path)
    assert made == tmp_path / "report.html"
    rest = {"notes.txt", "report.html", "report.json"}
    assert names(tmp_path) == {*rest, "tables/sinks/heads.csv", "tables/sinks/layers.csv"}
    assert len(pd.read_csv(tmp_path / "tables" / "sinks" / "heads.csv")) == 64


def test_tables_are_exactly_those_of_the_run(full: dict[str, Any], tmp_path: Path) -> None:
    write(full, tables(full), tmp_path)
    write(full, {"heads": tables(full)["heads"], "empty": pd.DataFrame({"a": []})}, tmp_path)
    written = {name for name in names(tmp_path) if name.startswith("tables")}
    assert written == {"tables/sinks/heads.csv"}


def test_intervals_are_two_columns_of_numbers() -> None:
    pairs = [(0.1, 0.2), None, [0.3, 0.4]]
    table = {"rate": [1, 2, 3], "interval": pairs, "gap_interval": pairs, "loss": pairs}
    frame = with_bounds(pd.DataFrame(table))
    ends = ["low", "high", "gap_low", "gap_high", "loss_low", "loss_high"]
    assert list(frame.columns) == ["rate", *ends]
    assert frame["low"].tolist()[::2] == [0.1, 0.3] and math.isnan(frame["low"][1])
    assert frame["high"].dtype == float


def test_a_table_that_is_nobodys_is_not_taken_away(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="belongs to no report here"):
        write(full, tables(full), tmp_path)
    assert (tmp_path / "tables" / "mine.csv").exists()


def test_render_gives_the_page_of_write(full: dict[str, Any], tmp_path: Path) -> None:
    write(full, tables(full), tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").write_text("old")
    assert render(tmp_path).read_bytes() == first
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_json_is_strict(full: dict[str, Any], tmp_path: Path) -> None:
    full["m_act"] = math.nan
    full["heads"][0] |= {"alpha_first": np.float32("inf"), "kv_head": np.int64(3)}
    full["heads"][1]["entropy_sink"] = np.bool_(True)
    full["domains"] = pd.DataFrame(full["domains"])
    full["extra"] = {"row": np.arange(3), "none": pd.NA, "place": Path("a/b")}
    write(full, {}, tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert report["m_act"] is None and report["heads"][0]["alpha_first"] is None
    assert report["heads"][0]["kv_head"] == 3 and report["heads"][1]["entropy_sink"] is True
    assert report["domains"][0]["name"] == "stories.txt"
    assert report["extra"] == {"row": [0, 1, 2], "none": None, "place": "a/b"}
    with pytest.raises(TypeError, match="set has no JSON form"):
        strict({"a": {1, 2}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no"),
        ('{"kind": "sinks", "format_ver', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[1, 2]", "not a report"),
        ('{"format_version": 1}', "not a report"),
        ('{"kind": "sinks", "format_version": 2}', "format version 2"),
        ('{"kind": "sinks"}', "format version None"),
        ('{"kind": "sinks", "format_version": 1, "heads": [1, 2]}', "cannot be drawn"),
        ('{"kind": "sinks", "format_version": 1, "heads": [{"alpha_first": 1}]}', "cannot be"),
        ('{"kind": "report", "format_version": 1, "findings": [3]}', "cannot be drawn"),
    ],
)
def test_bad_reports_are_refused_in_a_sentence(
    content: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "report.json").write_bytes(data)
    before = names(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        render(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert names(tmp_path) == before


def test_a_failure_half_way_leaves_the_old_report(
    full: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(full, tables(full), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def disk_full(content: Any, path: Path) -> None:
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        put(content, path)

    put = writing._put
    monkeypatch.setattr(writing, "_put", disk_full)
    full["m_act"] = 1.0
    with pytest.raises(InputError, match="No space left"):
        write(full, tables(full), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert not list(tmp_path.glob(".report-*"))


def test_an_output_that_is_a_file_is_refused(full: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("a file")
    with pytest.raises(InputError, match="cannot be written to"):
        write(full, {}, target)
    assert target.read_text() == "a file"


def test_rendering_imports_no_torch(full: dict[str, Any], tmp_path: Path) -> None:
    write(full, {}, tmp_path)
    code = (
        "import sys; from pathlib import Path; from analyses.rendering import render; "
        f"render(Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.cwd())
