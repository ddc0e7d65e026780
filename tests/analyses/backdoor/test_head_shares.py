"""The part of the report on heads: what it holds, and what the page says where there is nothing."""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.backdoor.head_shares import panel, section, table
from analyses.backdoor.report import HeadPatchingSection
from analyses.report.writing import plain
from analyses.shared.reports import NotMeasured, as_json
from interp.statistics.intervals import Interval, Method
from probes.backdoors.detectors.detectors import Readings
from probes.backdoors.heads.head_patching import HeadPatching, Together
from probes.backdoors.search.requests import Candidate


def patching(named: bool = True, effect: float = 12.0) -> HeadPatching:
    rows = [
        {
            "layer": layer, "head": head,
            "removed": share, "removed_low": share - 0.02, "removed_high": share + 0.02,
            "removed_null_high": 0.04,
            "restored": share / 2, "restored_low": 0.0, "restored_high": share,
            "restored_null_high": 0.06,
            "necessary": share > 0.1, "sufficient": False,
        }
        for layer, head, share in [(0, 0, 0.01), (0, 1, 0.4 if named else 0.02), (1, 0, -0.1)]
    ]  # fmt: skip
    both = [
        value
        for share in (0.4, 0.2, 1.0, 0.25, 0.1)
        for value in (
            share,
            Interval((share - 0.1, share + 0.1), Method.BOOTSTRAP, "requests"),
        )
    ]
    return HeadPatching(
        pd.DataFrame(rows) if effect > 1 else pd.DataFrame(),
        effect,
        Interval((effect - 0.5, effect + 0.5), Method.BOOTSTRAP, "requests"),
        1.25,
        Together(*both) if named else None,  # type: ignore[arg-type]
        "last",
        20,
        19,
    )


@dataclass(frozen=True)
class _Part:
    head_patching: HeadPatchingSection | NotMeasured


def reported(found: HeadPatching | None) -> dict[str, Any]:
    readings = Readings(Candidate("omber quill", (5, 6), "leak"), "front", patching=found)
    report: dict[str, Any] = plain(as_json(_Part(section(readings))))
    return report


def test_the_section_is_strict_json_and_the_table_has_the_strongest_head_first() -> None:
    found = reported(patching())["head_patching"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["named"] == ["0.1"] and found["where"] == "last" and found["strings"] == 19
    assert [(row["layer"], row["head"]) for row in found["heads"]] == [(0, 1), (0, 0), (1, 0)]
    readings = Readings(Candidate("x", (1,), "leak"), "front", patching=patching())
    assert len(table(readings)) == 3


def test_the_panel_shows_shares_nulls_and_the_named_heads_together() -> None:
    shown = panel(reported(patching()))
    assert shown is not None and shown.figure is not None and shown.table is not None
    assert "‘omber quill’" in shown.text and "above 5 %: 0.1." in shown.text
    assert "12.0 [11.5–12.5] nats" in shown.text and "20 requests" in shown.text
    assert shown.table["share"][3] == "0.250 [0.150–0.350]"
    nulls = [line.x0 for line in shown.figure.layout.shapes if line.x0 == line.x1]
    assert {0.04, 0.06} <= set(nulls)


def test_where_nothing_stands_out_the_panel_says_so() -> None:
    none_named = panel(reported(patching(named=False)))
    assert none_named is not None and none_named.table is None
    assert "No head lies above it and above 5 %." in none_named.text
    no_effect = panel(reported(patching(named=False, effect=1.0)))
    assert no_effect is not None and no_effect.figure is None
    assert "reaches 1.25" in no_effect.text and "nothing to share out" in no_effect.text


def test_without_patched_heads_there_is_no_panel() -> None:
    found = reported(None)
    assert found["head_patching"] is None and panel(found) is None
    assert "no behaviour" in found["not_measured"]["head_patching"]
    assert table(Readings(Candidate("x", (1,), "leak"), "front")).empty
