"""What `report.json` of the sink finding holds: every field of its interface, in its type."""

import json
import math
from typing import Any

import pytest
from families import WINDOW
from pydantic import TypeAdapter
from words import documents, wordy

from analyses.sinks.finding import SinkFinding
from analyses.sinks.report import SinkReport
from analyses.sinks.run import sinks

LENGTH = 16
FAMILIES = ["llama", "qwen3_5", "gpt_oss", "gemma2", "mistral", "gpt2"]
HEAD = {
    "layer": int,
    "head": int,
    "alpha_first": float,
    "sink_mass": float,
    "gated_sink_mass": float,
    "value_ratio": float,
    "entropy": float,
    "gate_mean": float,
    "ablation_delta_loss": float,
    "move_to_sink_delta_loss": float,
    "random_delta_loss": float,
    "learned_sink": float,
    "entropy_sink": bool,
}
OPTIONAL = {"gated_sink_mass", "gate_mean", "learned_sink", "move_to_sink_delta_loss"}
LAYER = {
    "layer": int,
    "residual_norm_first": float,
    "residual_norm_rest": float,
    "max_abs": float,
    "median_abs": float,
}
MASSIVE = {"layer": int, "position": int, "token": str, "dim": int, "value": float}


@pytest.fixture(scope="module", params=FAMILIES)
def finding(request: pytest.FixtureRequest) -> SinkFinding:
    texts = {"a": documents(5, 30), "b": documents(4, 30, seed=1)}
    return sinks(wordy(request.param), texts, length=LENGTH, causal_sequences=2)


@pytest.fixture(scope="module")
def report(finding: SinkFinding) -> dict[str, Any]:
    """As it is read back from a strict reader."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read: dict[str, Any] = json.loads(finding.to_json(), parse_constant=refuse)
    return read


def _check(
    entry: dict[str, Any], schema: dict[str, type], optional: set[str] | None = None
) -> None:
    for name, kind in schema.items():
        if entry[name] is None:
            assert name in (optional or set()), name
        else:
            assert type(entry[name]) is kind, name


def _is_interval(value: Any, around: float) -> bool:
    low, high = value
    return bool(isinstance(value, list) and low <= around <= high)


def test_head_and_provenance(report: dict[str, Any], finding: SinkFinding) -> None:
    assert report["kind"] == "sinks" and report["format_version"] == 1
    provenance = report["provenance"]
    for name in ("model", "fingerprint", "dtype", "attention", "tokenizer_hash"):
        assert type(provenance[name]) is str and provenance[name], name
    assert provenance["revision"] is None and provenance["seed"] == 0
    assert [entry["name"] for entry in provenance["data"]] == ["a", "b"]
    assert [entry["sequences"] for entry in provenance["data"]] == [5, 4]
    assert all(len(entry["sha256"]) == 64 for entry in provenance["data"])
    assert {"mechguard", "torch", "transformers", "python"} <= set(provenance["versions"])
    assert report["verdict"] == finding.verdict and finding.verdict.endswith(".")


def test_rates(report: dict[str, Any]) -> None:
    rate = report["sink_rate"]
    assert (rate["epsilon"], rate["length"], rate["sequences"]) == (0.3, LENGTH, 9)
    assert _is_interval(rate["interval"], rate["percent"]) and 0 <= rate["percent"] <= 100
    uniform = sum(1 / i for i in range(1, LENGTH + 1)) / LENGTH
    assert rate["uniform_alpha"] == pytest.approx(uniform)
    by_epsilon = {entry["epsilon"]: entry["percent"] for entry in rate["by_epsilon"]}
    assert by_epsilon[0.3] == rate["percent"]
    percents = [by_epsilon[epsilon] for epsilon in sorted(by_epsilon)]
    assert percents == sorted(percents, reverse=True)
    attention = report["first_token_attention"]
    assert _is_interval(report["first_token_attention_interval"], attention)
    assert type(report["m_act"]) is float and report["m_act"] > 0
    assert len(report["m_act_interval"]) == 2


def test_heads(report: dict[str, Any], finding: SinkFinding) -> None:
    for entry in report["heads"]:
        _check(entry, HEAD, OPTIONAL)
        for name in ("alpha_first", "ablation_delta_loss"):
            assert _is_interval([entry[f"{name}_low"], entry[f"{name}_high"]], entry[name])
    hybrid = finding.layers["attention"].tolist().count("linear") > 0
    layers = sorted({entry["layer"] for entry in report["heads"]})
    assert layers == ([1, 3] if hybrid else [0, 1, 2, 3])
    assert sorted({entry["head"] for entry in report["heads"]}) == [0, 1, 2, 3]
    mean = sum(entry["alpha_first"] for entry in report["heads"]) / len(report["heads"])
    assert report["first_token_attention"] == pytest.approx(mean, rel=1e-6)


def test_layers_and_massive_activations(report: dict[str, Any]) -> None:
    assert [entry["layer"] for entry in report["layers"]] == [0, 1, 2, 3]
    for entry in report["layers"]:
        _check(entry, LAYER)
    for outer in ("embedding", "final_norm"):
        _check({"layer": 0, **report[outer]}, LAYER)
    for entry in report["massive_activations"]:
        _check(entry, MASSIVE)
    maxima = [entry["max_abs"] for entry in report["layers"]]
    assert report["m_act"] == pytest.approx(sum(maxima) / 4)
    assert report["m_act_interval"][1] <= report["m_act"] * (1 + 1e-6)


def test_domains_and_parity(report: dict[str, Any]) -> None:
    assert [entry["name"] for entry in report["domains"]] == ["a", "b"]
    for entry in report["domains"]:
        assert _is_interval(entry["interval"], entry["sink_percent"])
    assert len(report["domain_heads"]) == len(report["heads"])
    assert all(type(entry["switching"]) is bool for entry in report["domain_heads"])
    assert type(report["parity"]["max_logit_difference"]) is float
    assert report["parity"]["max_logit_difference"] <= 1e-5 * report["parity"]["largest_logit"]
    assert report["parity"]["max_statistic_difference"] <= 1e-5
    causal = report["causal"]
    assert causal["sequences"] == 4 and _is_interval(causal["interval"], causal["baseline_loss"])


def test_caveats_are_those_of_the_model(finding: SinkFinding) -> None:
    kinds = set(finding.layers["attention"])
    text = " ".join(finding.caveats)
    assert ("window shorter" in text) is ("sliding" in kinds)
    assert ("no softmax attention" in text) is ("linear" in kinds)
    assert ("before the output gate" in text) is bool(finding.heads["gate_mean"].notna().any())
    assert ("learned sink counts" in text) is bool(finding.heads["learned_sink"].notna().any())
    assert ("soft-capped" in text) is bool(finding.heads["logit_gap"].isna().all())
    assert "without a correction" in text and "One sequence only" not in text
    assert LENGTH > WINDOW


def test_it_draws_and_shows_itself(finding: SinkFinding) -> None:
    figures = finding.figures()
    assert len(figures) >= 10
    assert finding.verdict.split("%")[0] in finding._repr_html_()
    assert repr(finding) == f"SinkFinding: {finding.verdict}"


def test_one_sequence_has_no_intervals() -> None:
    alone = sinks(wordy("llama"), {"a": documents(1, 30)}, length=LENGTH)
    report = alone.to_dict()
    assert report["sink_rate"]["interval"] is None
    assert report["first_token_attention_interval"] is None and report["m_act_interval"] is None
    assert report["heads"][0]["alpha_first_low"] is None
    assert report["causal"]["interval"] is None
    assert any("One sequence only" in caveat for caveat in alone.caveats)
    assert math.isnan(alone.heads["alpha_first_low"][0])
    assert alone.figures()
    absent = report["not_measured"]
    assert absent["sink_rate.interval"] == "an interval needs two sequences"
    assert {
        "first_token_attention_interval",
        "m_act_interval",
        "causal.interval",
        "heads[].alpha_first_low",
        "domains[].interval",
    } <= set(absent)


def test_a_skipped_causal_panel_is_null_with_the_reason() -> None:
    texts = {"a": documents(3, 30), "b": documents(3, 30, seed=1)}
    report = sinks(wordy("llama"), texts, length=LENGTH, causal_sequences=0).to_dict()
    absent = report["not_measured"]
    assert set(absent.values()) == {"the causal panel was skipped (`causal_sequences` is 0)"}
    assert report["causal"] is None and "causal" in absent
    for rows, name in (
        ("heads", "ablation_delta_loss"),
        ("domains", "loss"),
        ("domain_heads", "switching"),
    ):
        assert all(row[name] is None for row in report[rows])
        assert f"{rows}[].{name}" in absent


def test_the_report_fits_the_schema_of_its_type(report: dict[str, Any]) -> None:
    schema = TypeAdapter(SinkReport).json_schema()
    assert set(schema["properties"]) | {"not_measured", "intervals"} == set(report)
    assert schema["required"] == list(schema["properties"])
    assert set(schema["$defs"]["HeadRow"]["properties"]) == set(report["heads"][0])
    assert TypeAdapter(SinkReport).validate_python(report).sink_rate.length == LENGTH
