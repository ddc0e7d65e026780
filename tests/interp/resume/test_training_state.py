"""A training run on disk: what is put back, what is refused, what is begun anew."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from interp.errors import InputError
from interp.resume import training_state
from interp.resume.training_state import (
    FILE,
    SECONDS,
    Due,
    forget_training,
    resume_training,
    save_training,
)

RUN = {"plan": {"steps": 9, "betas": (0.9, 0.98)}, "data": "abc"}


class Tied(nn.Module):
    """Two modules that share a weight, a kept buffer and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.other.weight = self.one.weight
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("cache", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(torch.dropout(self.one(x), 0.5, True)) + self.mean


def made(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Tied()
    if kind == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def steps(model: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimiser.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimiser.step()
        with torch.no_grad():
            model.get_buffer("mean").add_(1.0)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_run_goes_on_as_if_it_had_not_been_stopped(kind: str, tmp_path: Path) -> None:
    whole, optimiser = made(kind)
    with torch.random.fork_rng():
        steps(whole, optimiser, 3)
        save_training(tmp_path / "run", RUN, 3, whole, optimiser)
        steps(whole, optimiser, 2)
    again, optimiser = made(kind)
    with torch.random.fork_rng():
        assert resume_training(tmp_path / "run", RUN, again, optimiser) == 3
        steps(again, optimiser, 2)
    assert again.get_parameter("one.weight") is again.get_parameter("other.weight")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    forget_training(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    assert resume_training(tmp_path / "run", RUN, again, optimiser) == 0
    assert resume_training(None, RUN, again, optimiser) == 0


def test_the_state_of_another_run_is_left_and_what_differs_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimiser = made("adamw")
    save_training(tmp_path, RUN, 1, model, optimiser)
    assert resume_training(tmp_path, RUN | {"data": "abd"}, model, optimiser) == 0
    assert "another run (data abc then, abd now); this one begins anew" in caplog.text
    assert resume_training(tmp_path, RUN, model, optimiser) == 1
    monkeypatch.setattr(training_state, "version", lambda name: "9")
    assert resume_training(tmp_path, RUN, model, optimiser) == 0
    assert "then, 9 now" in caplog.text


def test_a_state_is_saved_every_few_steps_and_once_a_minute() -> None:
    assert [step for step in range(1, 10) if Due(4)(step)] == [4, 8]
    often = Due(10**6, seconds=0.0)
    assert often(1) and often(2)
    seldom = Due(10**6)
    assert not seldom(1) and SECONDS <= 60


@pytest.mark.parametrize("place", [200, -40])
def test_a_flipped_bit_is_noticed(
    place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimiser = made("adamw")
    steps(model, optimiser, 1)
    save_training(tmp_path, RUN, 1, model, optimiser)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[place] ^= 4
    (tmp_path / FILE).write_bytes(bytes(content))
    assert resume_training(tmp_path, RUN, model, optimiser) == 0
    assert "is damaged" in caplog.text


def test_a_damaged_file_is_told_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, optimiser = made("adamw")
    save_training(tmp_path, RUN, 1, model, optimiser)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-30])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        assert resume_training(tmp_path, RUN, model, optimiser) == 0
    assert "is damaged" in caplog.text and "begins anew" in caplog.text
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in before)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    model, optimiser = made("adamw")
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        save_training(tmp_path / "run", RUN, 1, model, optimiser)
