"""The training-dynamics finding, at a few steps."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import AttentionMaskInterface
from typer.testing import CliRunner

from analyses.bigram_backcopy import VARIANTS, bigram_backcopy, figures, relu_attention
from analyses.bigram_backcopy.dynamics import logit_gap, measured_steps, snapshot
from analyses.bigram_backcopy.finding import BigramBackcopyFinding, verdict
from analyses.bigram_backcopy.relu import recorded_logits
from analyses.bigram_backcopy.report import BigramBackcopyReport
from analyses.cli import options
from analyses.cli.verbs.organisms import app
from interp.errors import CheckError, InputError
from interp.organisms.bigram_backcopy.grammar import small_grammar
from interp.organisms.bigram_backcopy.measure import Probe
from interp.organisms.bigram_backcopy.recipes import bigram_backcopy_recipes

STEPS = 6


@pytest.fixture(scope="module")
def finding() -> BigramBackcopyFinding:
    return bigram_backcopy(seeds=(0, 1), steps=STEPS, variants=("plain", "gated", "relu", "three"))


def tiny(attention: str) -> Any:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


def test_tables(finding: BigramBackcopyFinding) -> None:
    assert list(finding.table.columns) == ["variant", "seed", "step", "quantity", "value"]
    assert finding.table["value"].notna().all()
    assert set(finding.table["step"]) == set(measured_steps(STEPS)) == set(range(STEPS + 1))
    assert len(finding.summary) == 8
    gates = finding.table[finding.table["quantity"] == "gate_dormant"]
    assert set(gates["variant"]) == {"gated"}
    assert not finding.summary["as_owed"].any()  # six steps teach nothing
    risk = finding.table[finding.table["quantity"] == "bigram_risk"].groupby("step")["value"].mean()
    assert risk.iloc[-1] < risk.iloc[0]


def test_untrained_models_are_the_same_for_one_seed(finding: BigramBackcopyFinding) -> None:
    start = finding.table[(finding.table["step"] == 0) & (finding.table["seed"] == 0)]
    values = start.pivot(index="quantity", columns="variant", values="value")
    for quantity in ("value_norm", "raw_value_norm"):
        assert values.loc[quantity, "plain"] == values.loc[quantity, "relu"]
    assert abs(values.loc["logit_gap", "plain"] - values.loc["logit_gap", "relu"]) < 1e-6


def test_figures_come_from_the_json_alone(finding: BigramBackcopyFinding) -> None:
    rebuilt = figures.panels(json.loads(finding.to_json()))
    assert rebuilt[0].title == "Trained models"
    drawn = {panel.title: panel.figure for panel in rebuilt if panel.figure is not None}
    assert set(drawn) == set(finding.figures())
    figure = drawn["Attention on <bos>"]
    named = [trace for trace in figure.data if trace.name]
    assert [trace.name for trace in named] == [
        VARIANTS[key].label for key in VARIANTS if key in set(finding.summary["variant"])
    ]
    assert len(figure.data) == 3 * len(named)  # each with the two edges of its band
    assert "rgba(0,0,0,0)" in (figure.layout.paper_bgcolor, figure.layout.plot_bgcolor)
    assert len(drawn["Gate-weighted sink mass"].data) == 3
    one = finding.table[(finding.table["variant"] == "plain") & (finding.table["step"] == 3)]
    values = one.loc[one["quantity"] == "bos_attention", "value"]
    assert named[0].y[3] == pytest.approx(values.median(), rel=1e-3)


def test_saved_report(finding: BigramBackcopyFinding, tmp_path: Path) -> None:
    finding.save(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["kind"] == "bigram_backcopy" and report["format_version"] == 1
    assert report["caveats"] and report["verdict"] == finding.verdict
    assert len(pd.read_csv(tmp_path / "tables" / "bigram_backcopy" / "dynamics.csv")) == len(
        finding.table
    )
    assert "Logit gap" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_report_fits_the_schema_of_its_type(finding: BigramBackcopyFinding) -> None:
    report = finding.to_dict()
    adapter = TypeAdapter(BigramBackcopyReport)
    schema = adapter.json_schema()
    assert set(schema["properties"]) | {"not_measured", "intervals"} == set(report)
    assert set(schema["$defs"]["TrainedModel"]["properties"]) == set(report["tables"]["summary"][0])
    assert len(adapter.validate_python(report).tables.dynamics) == len(finding.table)


def test_verdict_says_what_missed_and_what_held() -> None:
    row = {"bos_attention": 0.97, "value_ratio": 0.02, "seed": 0, "as_owed": True}
    plain = {**row, "variant": "plain", "label": "softmax"}
    gated = {
        **row,
        "variant": "gated",
        "label": "element gate",
        "bos_attention": 0.3,
        "gate_dormant": 0.002,
        "gated_sink_mass": 1e-4,
    }
    opened = {**gated, "label": "frozen open", "gate_dormant": 1.0, "bos_attention": 0.96}
    held = verdict(pd.DataFrame([plain, gated, opened]))
    assert "softmax 0.97 (0.02); frozen open 0.96 (0.02)." in held
    assert "element gate 0.0001 (gate 0.002, raw attention 0.30)." in held
    assert held.endswith("All 3 models behave as their recipes owe.")
    worse = {**plain, "seed": 1, "bos_attention": 0.5, "as_owed": False}
    missed = verdict(pd.DataFrame([plain, worse]))
    assert "softmax 0.50–0.97" in missed and "gate" not in missed
    assert missed.endswith("1 of 2 models do not behave as their recipes owe: plain (seed 1).")


def test_points_are_evenly_spaced_in_the_logarithm() -> None:
    steps = measured_steps(1600)
    assert steps[:4] == [0, 1, 2, 3] and steps[-1] == 1600
    assert max(b / a for a, b in pairwise(steps[3:])) < 1.6


def test_logit_gap_by_hand() -> None:
    logits = torch.tensor([[1.0, 9, 9, 9], [2, 9, 9, 9], [3, 1, 9, 9], [4, 1, 2, 9]])[None, None]
    gap = logit_gap(logits)[0, 0]
    assert gap[:2].isnan().all() and gap[2:].tolist() == [2.0, 2.5]


def test_logits_are_those_behind_the_weights() -> None:
    model = tiny("eager")
    ids = torch.randint(16, (2, 9))
    with torch.no_grad(), recorded_logits(model) as logits:
        weights = model(input_ids=ids, output_attentions=True).attentions
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    for one, weight in zip(logits, weights, strict=True):
        again = one.masked_fill(~causal, -torch.inf).softmax(-1)
        assert torch.allclose(again, weight, atol=1e-6)
    assert model.config._attn_implementation == "eager"


def test_relu_attention_by_hand_with_padding_and_groups() -> None:
    ids = torch.randint(16, (2, 7))
    mask = torch.tensor([[1] * 7, [0, 0, 0, 1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with relu_attention() as name, torch.no_grad():
        model = tiny(name)
        with recorded_logits(model) as logits:
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                output_attentions=True,
            )
        alone = model(input_ids=ids[1:, 3:]).logits
    visible = torch.ones(7, 7, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    expected = logits[0].relu() * visible / visible.sum(-1, keepdim=True).clamp_min(1)
    assert torch.allclose(out.attentions[0], expected, atol=1e-6)
    assert out.logits.isfinite().all()
    assert torch.allclose(out.logits[1, 3:], alone[0], atol=1e-5)


def test_lent_names_are_taken_back_even_after_an_error() -> None:
    before = set(AttentionInterface._global_mapping), set(AttentionMaskInterface._global_mapping)
    with pytest.raises(RuntimeError, match="stop"), relu_attention() as name:
        assert name in AttentionInterface._global_mapping
        with recorded_logits(tiny(name)):
            raise RuntimeError("stop")
    after = set(AttentionInterface._global_mapping), set(AttentionMaskInterface._global_mapping)
    assert before == after


def test_snapshot_covers_every_layer() -> None:
    recipe = bigram_backcopy_recipes(4)["bb-plain-3"]
    model = recipe.architecture.build(0).eval()
    probe = Probe.draw(small_grammar(), 24, 4)
    with torch.no_grad():
        layers = snapshot(model, probe)
    assert len(layers) == 3
    assert layers[0].backcopy_risk == layers[2].backcopy_risk
    assert len({layer.value_norm for layer in layers}) == 3
    assert layers[0].gate_dormant is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"variants": ("plain", "nope")}, "nope"),
        ({"variants": ()}, "one or more"),
        ({"seeds": ()}, "at least one seed"),
        ({"steps": 1}, "at least 2"),
    ],
)
def test_bad_input(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        bigram_backcopy(**more)


def test_list_names_every_organism() -> None:
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "bb-plain-3" in result.output and "27,968" in result.output


def test_verify_shows_what_is_owed() -> None:
    result = CliRunner().invoke(app, ["verify", "bb-gated"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert "gated_sink_mass" in result.output and "≤ 0.01" in result.output


def test_command_line_faults(tmp_path: Path) -> None:
    unknown = CliRunner().invoke(app, ["train", "bb-nope", "--out", str(tmp_path / "x")])
    assert isinstance(unknown.exception, InputError)
    seeds = CliRunner().invoke(app, ["table", "--seeds", "one"])
    assert isinstance(seeds.exception, InputError) and "whole numbers" in str(seeds.exception)
    assert list(tmp_path.iterdir()) == []


def test_table_writes_the_report_and_fails_on_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []

    def quick(**given: Any) -> BigramBackcopyFinding:
        def progress(stage: str, done: int, total: int) -> None:
            stages.append(stage)
            given["progress"](stage, done, total)

        return bigram_backcopy(**{**given, "steps": 3, "progress": progress})

    monkeypatch.setattr("analyses.bigram_backcopy.dynamics.bigram_backcopy", quick)
    command = ["table", "--seeds", "0", "--variants", "plain,head", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["mechguard", "organisms", *command])
    with options.HELD:
        result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert isinstance(result.exception, CheckError) and "2 of 2" in str(result.exception)
    assert "plain" in result.output and "head" in result.output
    assert set(stages) == {"softmax, seed 0", "head gate, seed 0"}
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json", "tables"}
    assert (tmp_path / "tables" / "bigram_backcopy" / "summary.csv").exists()
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["provenance"]["command"].startswith("mechguard organisms table --seeds 0")


def test_table_claims_its_folder_before_it_trains(
    finding: BigramBackcopyFinding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(**_: object) -> None:
        raise AssertionError("training was begun")

    monkeypatch.setattr("analyses.bigram_backcopy.dynamics.bigram_backcopy", reached)
    finding.save(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (tmp_path / "report.json").write_text(json.dumps({**report, "kind": "sinks"}))
    call = ["table", "--seeds", "0", "--variants", "plain", "--out", str(tmp_path)]
    with options.HELD:
        refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, InputError) and "--overwrite" in str(refused.exception)
    with options.HELD:
        begun = CliRunner().invoke(app, [*call, "--overwrite"])
    assert isinstance(begun.exception, AssertionError)


@pytest.mark.slow
def test_relu_attention_needs_no_sink() -> None:
    finding = bigram_backcopy(variants=("relu",))
    row = finding.summary.iloc[0]
    assert row["as_owed"] and row["bos_attention"] <= 0.001
    assert set(VARIANTS) >= set(finding.summary["variant"])
