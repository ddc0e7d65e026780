"""Organisms are ordinary checkpoints: every tool takes them, without knowing what they are."""

from pathlib import Path

import pytest
import torch

import interp
from interp import organisms
from interp.capture.recorders import FirstKeyMass
from interp.capture.residual import ResidualNorms
from interp.capture.run import capture
from interp.data.rows import as_texts, text_rows
from interp.doctor.report import doctor

SHIPPED = sorted(
    folder.name
    for folder in (Path(organisms.__file__).parent / "weights").iterdir()
    if not folder.name.startswith("bb-")
)


@pytest.mark.parametrize("name", SHIPPED)
def test_doctor_finds_nothing(name: str) -> None:
    report = doctor(interp.load(f"organism:{name}"))
    assert [check.name for check in report.checks if check.status == "FAIL"] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_capture_runs_on_its_texts(name: str) -> None:
    checkpoint = interp.load(f"organism:{name}")
    texts = [as_texts(domain, some[:4]) for domain, some in organisms.texts(name).items()]
    rows = text_rows(checkpoint, texts, length=64)
    assert rows.bos and not any(rows.skipped.values())
    recorders = [FirstKeyMass(), ResidualNorms()]
    summary = capture(checkpoint, rows, recorders)
    assert summary.rows == 4 * len(texts)


@pytest.mark.parametrize("name", SHIPPED)
def test_half_precision_on_disk_is_exact_in_float32(name: str) -> None:
    model = interp.load(f"organism:{name}").model
    assert model.dtype == torch.float32
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
