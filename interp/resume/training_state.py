"""A training run that is not done yet, as one safetensors file, so that a stopped run goes on."""

import json
import logging
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from interp.errors import InputError, first_line
from interp.resume.files import replacing

log = logging.getLogger("mechguard.training")

FILE = "training.safetensors"


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
    with replacing(work / FILE) as temporary:
        save_file(tensors, temporary, {"run": json.dumps(run), "done": str(done)})


def resume_training(
    work: Path | None,
    run: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> int:
    """Put a run back where it was stopped; a damaged file is left with a warning.

    Args:
        work: its folder; None for a run that keeps nothing.
        run: what tells it from others; JSON-ready.
        model: its weights and buffers are replaced.
        optimiser: its state is replaced.

    Returns:
        The steps that are done; 0 where nothing is kept.

    Raises:
        InputError: the folder holds another run.
    """
    if work is None or not (work / FILE).exists():
        return 0
    try:
        with safe_open(work / FILE, framework="pt") as file:
            notes = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s); the run begins anew.", work / FILE, first_line(error))
        return 0
    there, asked = json.loads(notes["run"]), json.loads(json.dumps(run))
    if there != asked:
        other = [name for name in asked | there if there.get(name) != asked.get(name)]
        raise InputError(
            f"{work} holds a run with another {' and '.join(other)}; give another folder, or "
            "remove it to begin anew."
        )
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
    return int(notes["done"])


def forget_training(work: Path | None) -> None:
    """Remove what a run has kept, once it is done."""
    if work is not None:
        (work / FILE).unlink(missing_ok=True)


def _parts(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Weights and kept buffers by name, each once even where two modules share it."""
    kept = model.state_dict().keys()
    every = chain(model.named_parameters(), model.named_buffers())
    return [(name, tensor) for name, tensor in every if name in kept]
