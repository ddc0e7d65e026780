"""The report on disk: its fields and types, its files, and the page made from JSON alone."""

import copy
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from analyses.refusal.figures.panels import panels
from analyses.refusal.finding import REDACTED, RefusalFinding
from analyses.refusal.material import of_organism
from analyses.refusal.measuring.causal import EDITS
from analyses.refusal.report import RefusalReport
from analyses.registry import drawings
from analyses.rendering import render
from analyses.report.page import page
from analyses.shared.prompts import rows_of
from interp import organisms
from interp.capture.prompt_states import prompt_states
from interp.resolve import load
from probes.directions.directions import Direction

Found = Callable[[str], RefusalFinding]
LAYERS, POSITIONS = 3, (-4, -3, -2, -1)


@pytest.fixture(scope="module")
def finding(found: Found) -> RefusalFinding:
    return found("chat")


@pytest.fixture
def report(finding: RefusalFinding) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(finding.to_json(), parse_constant=_refuse)
    return loaded


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _is_rate(one: Any) -> bool:
    low, high = one["interval"]
    return (
        isinstance(one["rate"], float)
        and isinstance(one["n"], int)
        and 0 <= low <= one["rate"] <= high <= 1
    )


def test_the_fields_that_the_interface_promises(report: dict[str, Any]) -> None:
    assert report["kind"] == "refusal" and report["format_version"] == 1
    named = [field.name for field in fields(RefusalReport)]
    assert list(report) == [*named, "not_measured", "intervals"]
    direction = report["direction"]
    for key in ("layer", "position", "survivors", "candidates"):
        assert isinstance(direction[key], int)
    for key in ("bypass", "induce", "kl"):
        assert isinstance(direction[key], float)
    assert direction["segment"] == "post_instruction" and direction["position"] < 0
    assert direction["candidates"] == len(report["selection"]) == LAYERS * (len(POSITIONS) - 1)
    assert direction["survivors"] == sum(not row["discarded"] for row in report["selection"])
    cells = [(row["layer"], row["segment_position"]) for row in report["separation"]]
    assert cells == [(layer, position) for layer in range(LAYERS) for position in POSITIONS]
    for row in report["separation"]:
        low, high = row["interval"]
        assert 0 <= low <= row["auroc"] <= high <= 1
        assert 0.5 <= row["null_max"] <= 1 and 0 <= row["last_token_floor"] <= 1
    harm = report["harmfulness"]
    for key in ("auroc_t_inst_by_layer", "auroc_t_post_inst_by_layer"):
        assert len(harm[key]) == LAYERS and all(isinstance(one, float) for one in harm[key])
    cosines = harm["cosine_with_refusal_by_layer"]
    assert len(cosines) == LAYERS
    assert cosines[0] == 0.0 and all(-1 <= one <= 1 for one in cosines)
    assert isinstance(harm["latent_guard"]["auroc"], float)
    assert [one["fpr"] for one in harm["latent_guard"]["tpr_at_fpr"]] == [0.01, 0.001]
    assert set(report["rates"]) == {"harmful", "harmless", "over_refusal"}
    for by_edit in report["rates"].values():
        assert tuple(by_edit) == EDITS and all(map(_is_rate, by_edit.values()))
        assert all(0 <= one["first_token"] <= 1 for one in by_edit.values())
    assert report["scorers"]["counted"] == "whole refusal"
    assert all(isinstance(one, str) and one.endswith(".") for one in report["caveats"])
    for key in ("model", "fingerprint", "tokenizer_hash", "seed", "versions", "data", "command"):
        assert key in report["provenance"]


def test_counts_add_up(report: dict[str, Any]) -> None:
    harm = report["harmfulness"]
    cells = harm["cells"]["test"]
    assert cells["refused_harmful"] + cells["accepted_harmful"] == harm["n"]["harmful"]
    assert (
        sum(cells.values())
        == report["scorers"]["n"]
        == report["provenance"]["data"][2]["sequences"]
    )
    guard = harm["latent_guard"]["n"]
    jailbroken = len(organisms.prompts("chat")["jailbroken"])
    assert guard["positives"] == jailbroken < cells["accepted_harmful"]
    assert guard["negatives"] == cells["accepted_harmless"]
    for counts in report["scorers"]["verdicts"].values():
        assert sum(counts.values()) == report["scorers"]["n"]
    means = report["beliefs"]["means"]
    assert {name: one["n"] for name, one in means.items()} == cells


def test_beliefs_part_what_is_asked_from_what_is_done(report: dict[str, Any]) -> None:
    means = report["beliefs"]["means"]
    for name, one in means.items():
        refused, harmful = name.split("_")
        assert (one["refuse"] > 0) == (refused == "refused"), name
        assert (one["harm"] > 0) == (harmful == "harmful"), name


def test_what_harmful_prompts_were_granted_is_redacted(report: dict[str, Any]) -> None:
    granted = 0
    for row in report["transcripts"]:
        for edit in EDITS:
            refused = row[f"{edit}_verdict"] == "refusal"
            hidden = row[edit].startswith(REDACTED)
            assert hidden == (row["set"] == "harmful" and not refused)
            granted += hidden
    assert granted
    shown = [row for row in report["strips"] if row["name"].startswith("harmful")]
    assert len(shown) == 3 and all(len(row["tokens"]) == len(row["values"]) for row in shown)


def test_save_writes_what_a_reader_and_a_program_need(
    finding: RefusalFinding, tmp_path: Path
) -> None:
    html = finding.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html", "report.json", "tables", "direction.safetensors",
    }  # fmt: skip
    assert {path.stem for path in (tmp_path / "tables" / "refusal").iterdir()} == set(
        finding.tables
    )
    loaded = json.loads((tmp_path / "report.json").read_text(), parse_constant=_refuse)
    assert loaded == finding.to_dict()
    direction = Direction.load(tmp_path / "direction.safetensors")
    assert finding.direction is not None
    assert direction.vector.equal(finding.direction.vector)
    assert (direction.layer, direction.position) == (loaded["direction"]["layer"], -1)
    before = html.read_text()
    for path in (
        html,
        *(tmp_path / "tables" / "refusal").iterdir(),
        tmp_path / "direction.safetensors",
    ):
        path.unlink()
    assert render(tmp_path).read_text() == before


def test_a_report_without_a_direction_leaves_none_of_an_earlier_one(
    finding: RefusalFinding, tmp_path: Path
) -> None:
    finding.save(tmp_path)
    replace(finding, direction=None).save(tmp_path)
    assert not (tmp_path / "direction.safetensors").exists()


def test_the_page_draws_every_panel_and_fetches_nothing(report: dict[str, Any]) -> None:
    html = page(report, drawings(report))
    assert len(html.encode()) < 6_000_000
    titles = [panel.title for panel in panels(report)]
    assert len(set(titles)) == len(titles) >= 15
    for title in titles:
        assert f"{title}</h3>" in html
    assert html.count("<script src") == html.count("<link") == html.count("<img") == 0
    assert report["verdict"].split(" [")[0] in html
    for panel in panels(report):
        assert panel.text.endswith("."), panel.title
    assert REDACTED in html


def test_foreign_text_stays_text(report: dict[str, Any]) -> None:
    attack = "</script><script>alert(1)</script>"
    bad = copy.deepcopy(report)
    bad["verdict"] = bad["caveats"][0] = bad["transcripts"][0]["prompt"] = attack
    bad["refusal_tokens"]["texts"][0] = bad["strips"][0]["tokens"][0] = attack
    bad["scorers"]["counted"] = attack
    assert "<script>alert" not in page(bad, drawings(bad))


def test_a_finding_without_a_direction_still_makes_a_page(report: dict[str, Any]) -> None:
    for key in ("layer", "position", "segment", "bypass", "induce", "kl"):
        report["direction"][key] = None
    for name, by_edit in report["rates"].items():
        report["rates"][name] = {e: by_edit[e] if e == "base" else None for e in EDITS}
    report["rates"]["over_refusal"] = None
    for key in ("random_rates", "dose_response", "utility", "strips"):
        report[key] = []
    report["first_divergence"] = None
    html = page(report, drawings(report))
    assert "No candidate is left." in html and "Dose and response" not in html


def test_attributed_parts_add_up_to_what_parts_the_classes(
    finding: RefusalFinding, report: dict[str, Any]
) -> None:
    """On the test prompts, at the direction's own place."""
    assert finding.direction is not None
    checkpoint, test = load("organism:chat"), of_organism("chat").test
    along = {
        label: prompt_states(checkpoint, rows_of(checkpoint, test.of(label), {})).at(-1)[:, 1]
        @ finding.direction.unit.numpy()
        for label in ("harmful", "harmless")
    }
    total = sum(row["difference"] for row in report["attribution"])
    wanted = float(along["harmful"].mean() - along["harmless"].mean())
    assert total == pytest.approx(wanted, rel=1e-4)
    assert {"embedding", "L0 MLP", "L0 head 3"} <= {row["part"] for row in report["attribution"]}
