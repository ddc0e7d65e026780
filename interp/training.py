"""One plain training loop for every organism: deterministic on one machine, and resumable."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.resume.training_state import Due, forget_training, resume_training, save_training

BatchSource = Callable[[int], tuple[Tensor, Tensor]]
"""A step to (input_ids, loss_mask), both (batch, length).

The mask is 1 at tokens that are to be predicted. The batch depends on the step alone, so that a
resumed run sees what an unbroken one would have seen.
"""

During = Callable[[int, Any], contextlib.AbstractContextManager[None]]
"""A step and the model to a context, such as an edit that is in force while the model runs."""

SAVE_EVERY = 50
"""Steps between two savings of the state of a run."""


@dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    Attributes:
        steps: optimiser steps; the cosine ends with the last of them.
        learning_rate: the peak, reached after `warmup` steps and left on a cosine to `floor` of it.
        optimiser: AdamW, or SGD with momentum.
        betas: of AdamW.
        momentum: of SGD.
        weight_decay: of matrices (norms and biases are not decayed); decoupled in AdamW, an L2 term
            in SGD.
        warmup: steps of linear warm-up.
        floor: share of the learning rate that is left at the end.
        clip: largest norm of the gradient.
    """

    steps: int
    learning_rate: float
    optimiser: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup: int = 50
    floor: float = 0.1
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate at a step, counted from 0."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        share = self.floor + (1.0 - self.floor) * cosine
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1)) * share

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over all parameters of a model."""
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        match self.optimiser:
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas)
            case "sgd":
                return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
            case _:
                assert_never(self.optimiser)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, where sums are taken in one order, then restore the setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def next_token_loss(
    logits: Float[Tensor, "batch length v"],
    input_ids: Int[Tensor, "batch length"],
    loss_mask: Tensor,
) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of the tokens that the mask marks, each from those before it."""
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), input_ids[:, 1:], reduction="none")
    weight = loss_mask[:, 1:].to(nll.dtype)
    return (nll * weight).sum() / weight.sum()


def train_model(
    model: nn.Module,
    batches: BatchSource,
    schedule: Schedule,
    *,
    pin: Callable[[nn.Module], None] | None = None,
    during: During | None = None,
    about: Mapping[str, Any] | None = None,
    work: Path | None = None,
    save_every: int = SAVE_EVERY,
    progress: Callable[[int, float], None] | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> float:
    """Train a causal language model in place and leave it in evaluation mode.

    Args:
        model: a transformers causal language model.
        batches: gives the batch of each step.
        schedule: the optimiser and its learning rate.
        pin: called after every step to put parameters back that are not to be trained.
        during: gives what must be in force while the model runs on the batch of a step.
        about: what tells this run from others of the same schedule; JSON-ready.
        work: folder in which the run's state is kept; a run that finds one there goes on from it
            and ends with the weights of an unbroken run. Removed at the end.
        save_every: steps between two savings of the state, at most; it is saved once a minute too.
        progress: called with the number of steps done and the last loss in nats.
        on_step: called with the number of steps done and the model in evaluation mode, first with 0
            before any step.

    Returns:
        The loss of the last batch, in nats (NaN when a finished run is resumed).

    Raises:
        InputError: the state cannot be written.
    """
    optimiser, due = schedule.build(model), Due(save_every)
    run = {"schedule": asdict(schedule), **(about or {})}
    with one_thread():
        done = resume_training(work, run, model, optimiser)
        if on_step and done == 0:
            _observe(on_step, 0, model)
        loss = math.nan
        model.train()
        for step in range(done, schedule.steps):
            with during(step, model) if during else contextlib.nullcontext():
                loss = _step(model, optimiser, schedule.rate(step), schedule.clip, *batches(step))
            if pin:
                pin(model)
            if progress:
                progress(step + 1, loss)
            if on_step:
                _observe(on_step, step + 1, model)
            if work and due(step + 1):
                save_training(work, run, step + 1, model, optimiser)
    model.eval()
    forget_training(work)
    return loss


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rate: float,
    clip: float,
    input_ids: Tensor,
    loss_mask: Tensor,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    loss = next_token_loss(model(input_ids=input_ids, use_cache=False).logits, input_ids, loss_mask)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return loss.item()


def _observe(on_step: Callable[[int, nn.Module], None], done: int, model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        on_step(done, model)
    model.train()
