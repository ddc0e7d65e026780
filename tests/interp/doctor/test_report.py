"""The doctor passes sound checkpoints, says N/A with a reason, and finds planted faults."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, VOCAB, tiny
from models_under_test import steady
from torch import nn

from analyses.cli.verbs.doctor import doctor as command
from interp.doctor.report import DoctorReport, doctor
from interp.errors import CheckError, InputError
from interp.resolve import load

NAMES = [
    "parity",
    "statistics",
    "batch, left padding",
    "batch, right padding",
    "cache",
    "identity",
    "causality",
    "ranks",
    "restoration",
    "nothing silent",
]


def _status(report: DoctorReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_in_float32(family: str) -> None:
    report = doctor(load(steady(family)))
    expected = dict.fromkeys(NAMES, "PASS") | {"ranks": "N/A"}
    assert _status(report) == expected, report.to_frame().to_string()
    for check in report.checks:
        allowed = {"cache": 0.0, "identity": 0.0}.get(check.name, 1e-5)
        assert check.difference is None or check.difference <= allowed
        assert check.tolerance is None or check.tolerance == allowed
    assert report.seconds < 60


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_in_bfloat16(family: str) -> None:
    report = doctor(load(steady(family, torch.bfloat16)))
    status = _status(report)
    assert "FAIL" not in status.values(), report.to_frame().to_string()
    assert status["statistics"] == "N/A"
    assert [status[name] for name in ("cache", "identity", "causality")] == ["PASS"] * 3


@pytest.mark.parametrize("context,vocabulary", [(11, 3), (8, 5), (2, 2), (1, 4)])
def test_small_contexts_and_vocabularies(context: int, vocabulary: int) -> None:
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=12, n_layer=1, n_head=3, n_positions=context,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    report = doctor(load(transformers.AutoModelForCausalLM.from_config(config)))
    assert report.passed, report.to_frame().to_string()
    status = _status(report)
    assert (status["cache"] == "PASS") is (context > 8)
    assert (status["causality"] == "PASS") is (context > 1)


def test_a_family_outside_the_interface_is_not_applicable() -> None:
    config = transformers.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)
    report = doctor(load(transformers.AutoModelForCausalLM.from_config(config)))
    assert report.passed
    reasons = {check.name: check.detail for check in report.checks if check.status == "N/A"}
    assert "AttentionInterface" in reasons["parity"]
    assert "AttentionInterface" in reasons["statistics"]
    assert "position_ids" in reasons["cache"]


class _Peeking(nn.Module):
    """An MLP that looks at the token to its right."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(x.roll(-1, 1))
        return output


class _Forgetful(nn.Module):
    """An MLP that mixes rows of a batch and goes wrong where there is only one token."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(x + x.mean(0, keepdim=True))
        return -output if x.shape[1] == 1 else output


@pytest.mark.parametrize(
    "fault,found",
    [
        (_Peeking, {"causality"}),
        (_Forgetful, {"batch, left padding", "batch, right padding", "cache"}),
    ],
)
def test_a_planted_fault_is_found(fault: type[Any], found: set[str]) -> None:
    model = tiny("llama")
    model.model.layers[1].mlp = fault(model.model.layers[1].mlp)
    report = doctor(load(model))
    assert found <= {check.name for check in report.checks if check.status == "FAIL"}
    assert not report.passed
    batch = next(check for check in report.checks if check.name == "batch, left padding")
    assert batch.status == "PASS" or "rounding noise" in batch.detail


def test_a_hook_that_breaks_shows_in_the_table() -> None:
    model = tiny("llama")

    def broken(*_: Any) -> None:
        raise RuntimeError("the hook is broken")

    model.model.layers[0].register_forward_hook(broken)
    report = doctor(load(model))
    parity = report.checks[0]
    assert (parity.status, parity.detail) == ("FAIL", "RuntimeError: the hook is broken")


def test_a_model_that_gave_hidden_states_before_is_examined_all_the_same() -> None:
    # transformers then leaves hooks and a flag on the model for good.
    model = steady("llama")
    model(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    assert _status(doctor(load(model)))["restoration"] == "PASS"


def test_weights_that_are_not_finite_fail() -> None:
    model = tiny("llama")
    model.model.layers[2].mlp.down_proj.weight.data[0, 0] = float("nan")
    status = _status(doctor(load(model)))
    assert [status[name] for name in ("parity", "nothing silent")] == ["FAIL", "FAIL"]


def test_the_threads_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        doctor(load(tiny("llama")))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_report_reads_back() -> None:
    report = doctor(load(tiny("llama")))
    assert json.loads(json.dumps(report.to_dict()))["checks"][0]["name"] == "parity"
    assert list(report.to_frame()["name"]) == NAMES
    html = report._repr_html_()
    assert html.count("<tr>") == len(NAMES) + 1
    assert "PASS" in html


def test_the_command_writes_json_and_fails_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path / "sound")
    command(str(tmp_path / "sound"), json_file=tmp_path / "sound.json", device="cpu")
    assert "PASS" in capsys.readouterr().out
    report = json.loads((tmp_path / "sound.json").read_text())
    assert report["passed"] is True
    assert report["checks"][0]["difference"] == 0.0
    model.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(CheckError, match=r"fails .* parity"):
        command(str(tmp_path / "broken"), json_file=tmp_path / "broken.json", device="cpu")
    assert json.loads((tmp_path / "broken.json").read_text())["passed"] is False
    assert {path.name for path in tmp_path.iterdir()} == {
        "sound", "broken", "sound.json", "broken.json"
    }  # fmt: skip
    with pytest.raises(InputError, match="is no folder"):
        command(str(tmp_path / "sound"), json_file=tmp_path / "nowhere" / "x.json")
