import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.report import render as rendering
from analyses.report.render import plain as strict
from analyses.report.render import render, write
from interp.errors import InputError


def tables(finding: dict[str, Any]) -> dict[str, pd.DataFrame]:
    return {"heads": pd.DataFrame(finding["heads"]), "layers": pd.DataFrame(finding["layers"])}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_writes_everything_and_leaves_other_files(full: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "older.csv").write_text("a\n1\n")
    made = write(full, tables(full), tmp_path)
    assert made == tmp_path / "report.html"
    assert names(tmp_path) == {
        "notes.txt", "report.html", "report.json",
        "tables/heads.csv", "tables/layers.csv", "tables/older.csv",
    }  # fmt: skip
    assert len(pd.read_csv(tmp_path / "tables" / "heads.csv")) == 64


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

    put = rendering._put
    monkeypatch.setattr(rendering, "_put", disk_full)
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
        "import sys; from pathlib import Path; from analyses.report.render import render; "
        f"render(Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.cwd())
