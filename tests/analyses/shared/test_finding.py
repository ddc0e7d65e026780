import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.sinks.finding import SinkFinding
from interp.errors import InputError


@pytest.fixture
def finding(full: dict[str, Any]) -> SinkFinding:
    frame = pd.DataFrame({"layer": range(12), "token": ["<b>&", *"bcdefghijkl"]})
    return SinkFinding({**full, "verdict": "Heads <look> at BOS."}, {"heads": frame})


def test_reads_its_report(finding: SinkFinding) -> None:
    assert finding.kind == "sinks"
    assert finding.verdict == "Heads <look> at BOS."
    assert len(finding.caveats) == 2
    finding.caveats.clear()
    assert len(finding.caveats) == 2
    assert repr(finding) == "SinkFinding: Heads <look> at BOS."


def test_json_is_strict(finding: SinkFinding) -> None:
    finding.report["odd"] = {
        "nan": math.nan,
        "inf": np.float32("inf"),
        "pair": (np.int64(3), np.float64(0.5)),
        "array": np.array([1.0, math.nan]),
    }
    told = json.loads(finding.to_json(), parse_constant=pytest.fail)
    assert told["odd"] == {"nan": None, "inf": None, "pair": [3, 0.5], "array": [1.0, None]}
    assert told == finding.to_dict()


def test_what_has_no_json_form_is_refused(finding: SinkFinding) -> None:
    finding.report["odd"] = object()
    with pytest.raises(TypeError, match="object has no JSON form"):
        finding.to_json()


def test_figures_are_those_of_the_page(finding: SinkFinding) -> None:
    drawn = finding.figures()
    assert "Attention on the first token, by head" in drawn
    assert all(figure.data for figure in drawn.values())


def test_save_writes_page_json_and_tables(finding: SinkFinding, tmp_path: Path) -> None:
    page = finding.save(tmp_path / "new" / "report")
    assert page.name == "report.html" and page.is_file()
    assert json.loads((page.parent / "report.json").read_text()) == finding.to_dict()
    table = pd.read_csv(page.parent / "tables" / "sinks" / "heads.csv")
    assert table.equals(finding.tables["heads"])
    left = {path.name for path in page.parent.iterdir()}
    assert left == {"report.html", "report.json", "tables"}


def test_save_onto_a_file_is_refused(finding: SinkFinding, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        finding.save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_notebook_gets_escaped_text_and_short_tables(finding: SinkFinding) -> None:
    shown = finding._repr_html_()
    assert "Heads &lt;look&gt; at BOS." in shown and "<look>" not in shown
    assert "&lt;b&gt;&amp;" in shown
    assert "heads (12 rows)" in shown and shown.count("<tr") == 11
    assert finding.caveats[0] in shown
