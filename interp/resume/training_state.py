"""A training run that is not done yet, as one safetensors file, so that a stopped run goes on."""

import json
import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from interp.errors import first_line
from interp.resume.files import replacing
from interp.resume.run_folder import changes, listed, note
from interp.resume.sealed_tensors import digest

log = logging.getLogger("mechguard.training")

FILE = "training.safetensors"
SECONDS = 45.0
"""Between two savings of a state, at most, but for a step that takes longer."""


class Due:
    """When a run saves its state: every so many steps, and at least once a minute.

    Args:
        steps: between two savings, at most.
        seconds: the same, on the clock.
    """

    def __init__(self, steps: int, seconds: float = SECONDS) -> None:
        self._steps, self._seconds = steps, seconds
        self._last = time.monotonic()

    def __call__(self, done: int) -> bool:
        """Whether to save now.

        Args:
            done: steps.
        """
        due = done % self._steps == 0 or time.monotonic() - self._last >= self._seconds
        if due:
            self._last = time.monotonic()
        return due


def save_training(
    work: Path,
    run: Mapping[str, Any],
    done: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Keep weights, buffers, the optimiser's state and torch's random numbers.

    Args:
        work: folder of this run, made if need be.
        run: what tells it from others; JSON-ready.
        done: steps.
        model: as it is after them.
        optimiser: its.

    Raises:
        InputError: the disk is full or not writable.
    """
    tensors = {f"model.{name}": tensor.detach().contiguous() for name, tensor in _parts(model)}
    for index, state in optimiser.state_dict()["state"].items():
        kept = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        tensors |= {f"optimiser.{index}.{name}": value for name, value in kept.items()}
    tensors["random"] = torch.get_rng_state()
    notes = {"run": json.dumps(_with_libraries(run)), "done": str(done)}
    with replacing(work / FILE) as temporary:
        save_file(tensors, temporary, {**notes, "sha256": digest(notes, tensors)})
    note(work)


def resume_training(
    work: Path | None,
    run: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> int:
    """Put a run back where it was stopped.

    The state of another run, or a damaged one, is left; what differs is logged.

    Args:
        work: its folder; None for a run that keeps nothing.
        run: what tells it from others; JSON-ready.
        model: its weights and buffers are replaced.
        optimiser: its state is replaced.

    Returns:
        The steps that are done; 0 where nothing is kept.
    """
    if work is None or not (work / FILE).exists():
        return 0
    try:
        notes, tensors = _read(work / FILE)
        there, done = json.loads(notes["run"]), int(notes["done"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        log.warning("%s is damaged (%s); the run begins anew.", work / FILE, first_line(error))
        return 0
    if changed := changes(there, json.loads(json.dumps(_with_libraries(run)))):
        log.warning(
            "%s belongs to another run (%s); this one begins anew.", work / FILE, listed(changed)
        )
        return 0
    with torch.no_grad():
        for name, tensor in _parts(model):
            tensor.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        kind, _, rest = full.partition(".")
        if kind == "optimiser":
            index, _, name = rest.partition(".")
            # A copy, for the file may be mapped into memory, and is about to be replaced.
            state.setdefault(int(index), {})[name] = tensor.clone()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["random"])
    log.info("goes on from step %d, where it was stopped.", done)
    note(work)
    return done


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Notes and tensors of a saved run.

    Raises:
        ValueError: the checksum differs.
    """
    with safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if notes.pop("sha256", None) != digest(notes, tensors):
        raise ValueError("its checksum differs")
    return notes, tensors


def _with_libraries(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run, "torch": str(torch.__version__), "transformers": version("transformers")}


def forget_training(work: Path | None) -> None:
    """Remove what a run has kept, once it is done."""
    if work is not None:
        (work / FILE).unlink(missing_ok=True)


def _parts(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Weights and kept buffers by name, each once even where two modules share it."""
    kept = model.state_dict().keys()
    every = chain(model.named_parameters(), model.named_buffers())
    return [(name, tensor) for name, tensor in every if name in kept]
