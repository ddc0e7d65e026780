"""Layer weights trained through the frozen model: what the published controller leaves untrained.

Hegazy et al. (arXiv 2505.20309) give the layer weights no target. Here they descend on what they
are for: jailbroken prompts are to be refused, and benign ones left alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row
from interp.errors import InputError, NumericalError, is_out_of_memory
from interp.model.sites import Site
from interp.resume.training_state import Due, resume_training, save_training
from steering.runtime.generate_hooks import hooked
from steering.runtime.operators import move, operate, prepared

Weigh = Callable[[Tensor], Tensor]
"""From numbers of rows to weights [rows, sites] between 0 and 1."""

_MARGIN = 4.0  # nats of log-odds beyond which a refusal is sure enough
_SPARSE = 0.05  # price of weights, so that layers that do not help are left alone
_RATE = 0.05


@dataclass(frozen=True)
class TrainingData:
    """Prompts of one side of the end-to-end phase: those to learn from, or those held out.

    Attributes:
        rows: prompts.
        strengths: of the gate in each, soft, so that a leak on benign prompts has a price.
        refuse: whether a prompt is to be refused; else it is to be left alone.
        weigh: gives the weights of the sites in some of the prompts.
    """

    rows: Sequence[Row]
    strengths: Float[Tensor, " rows"]
    refuse: np.ndarray
    weigh: Weigh

    def drawn(self, batch: int, *seed: int) -> list[np.ndarray]:
        """Numbers of prompts to be refused and of others, half a batch of each."""
        generator = np.random.default_rng(seed)
        sides = (np.flatnonzero(self.refuse), np.flatnonzero(~self.refuse))
        return [generator.choice(side, min(batch // 2, len(side)), False) for side in sides]


@dataclass(frozen=True)
class WeightSchedule:
    """Steps, batches and early stopping of the end-to-end phase.

    Attributes:
        steps: of Adam, at most.
        batch: prompts in a step, half of them to be refused.
        seed: of the batches; each depends on the seed and its step alone.
        every: steps between two looks at the held-out prompts, at which the state is kept too.
        patience: looks in a row without a lower loss, after which it stops.
        held: batches of held-out prompts in a look, the same in all.
    """

    steps: int = 60
    batch: int = 32
    seed: int = 0
    every: int = 5
    patience: int = 4
    held: int = 4


@dataclass(frozen=True)
class TrainingLog:
    """Losses of the end-to-end phase, and the step whose weights were taken.

    Attributes:
        losses: of every step.
        looks: of the held-out prompts, before the first step and every few steps.
        best: number of steps after which the weights were taken.
    """

    losses: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    best: int = 0

    def over(self, schedule: WeightSchedule) -> bool:
        """Whether all steps are done, or patience is at its end."""
        waited = (len(self.losses) - self.best) // schedule.every
        return len(self.losses) >= schedule.steps or waited >= schedule.patience


@dataclass(frozen=True)
class SiteWeights:
    """Weights of sites that are trained, and the model through which they are.

    Attributes:
        checkpoint: frozen meanwhile.
        sites: that are weighed.
        directions: of each.
        refusal_ids: first tokens of refusals.
        parameters: behind the weights.
    """

    checkpoint: Checkpoint
    sites: Sequence[Site]
    directions: Float[Tensor, "sites width"]
    refusal_ids: Sequence[int]
    parameters: Sequence[nn.Parameter]


def train_weights(
    trained: SiteWeights,
    data: TrainingData,
    held: TrainingData,
    schedule: WeightSchedule,
    *,
    keep: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingLog:
    """Descend on the weights of the sites; the model stays as it is.

    Loss: mean softplus(4 − log-odds of refusal) over prompts to be refused, plus mean KL(base ‖
    steered) in nats over the others, both at the first new token, plus 0.05 · mean weight. The
    edit is `relative` at strength 1, at the last prompt token. Taken are the weights with the
    lowest loss on held-out prompts.

    Args:
        trained: the weights' parameters, which are left at their best.
        data: prompts to learn from.
        held: prompts by which it is told when to stop.
        schedule: steps and batches.
        keep: folder in which a descent leaves its state, and goes on from it; left there at the
            end, so that a run which is stopped later need not descend again.
        progress: called with (steps done, steps in all).

    Raises:
        NumericalError: the loss becomes NaN.
        InputError: the device has too little memory.
    """
    state, run = _State(trained.parameters, schedule), {"schedule": asdict(schedule)}
    due = Due(schedule.every)
    optimiser = torch.optim.Adam(state.now.parameters(), _RATE)
    done = state.log(resume_training(keep, run, state, optimiser))
    with _frozen(trained.checkpoint), _enough_memory(schedule.batch):
        if not done.looks:
            done = _looked(trained, held, schedule, done)
            state.note(done)
        while not done.over(schedule):
            step, looked = len(done.losses), False
            loss = _loss(trained, data, data.drawn(schedule.batch, schedule.seed, 0, step))
            _require_finite(float(loss.detach()), step + 1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done.losses.append(float(loss.detach()))
            if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
                done = _looked(trained, held, schedule, done)
                looked = True
            keeps = keep is not None and (looked or due(step + 1))
            if looked or keeps:
                state.note(done)
            if keep is not None and keeps:
                save_training(keep, run, step + 1, state, optimiser)
            if progress is not None:
                progress(step + 1, schedule.steps)
    state.take_best()
    return done


class _State(nn.Module):
    """What is kept of a descent: the weights, the best ones so far, and their losses."""

    losses: Tensor
    looks: Tensor
    at: Tensor

    def __init__(self, parameters: Sequence[nn.Parameter], schedule: WeightSchedule) -> None:
        super().__init__()
        self.now = nn.ParameterList(parameters)
        self.best = nn.ParameterList(
            nn.Parameter(one.detach().clone(), requires_grad=False) for one in parameters
        )
        looks = 2 + schedule.steps // schedule.every  # before the first step, and after the last
        self.register_buffer("losses", torch.zeros(schedule.steps, dtype=torch.float64))
        self.register_buffer("looks", torch.full((looks,), torch.nan, dtype=torch.float64))
        self.register_buffer("at", torch.tensor(0))

    def note(self, done: TrainingLog) -> None:
        """Keep a look, and the weights where it was the best."""
        self.losses[: len(done.losses)] = torch.tensor(done.losses, dtype=torch.float64)
        self.looks[: len(done.looks)] = torch.tensor(done.looks, dtype=torch.float64)
        self.at.fill_(done.best)
        if done.best == len(done.losses):
            _copy(self.now, self.best)

    def log(self, steps: int) -> TrainingLog:
        """The losses of so many steps."""
        looks = self.looks[~self.looks.isnan()]
        return TrainingLog(self.losses[:steps].tolist(), looks.tolist(), int(self.at))

    def take_best(self) -> None:
        """Go back to the best weights."""
        _copy(self.best, self.now)


def _copy(source: nn.ParameterList, target: nn.ParameterList) -> None:
    with torch.no_grad():
        for one, other in zip(source, target, strict=True):
            other.copy_(one)


def _looked(
    trained: SiteWeights, held: TrainingData, schedule: WeightSchedule, done: TrainingLog
) -> TrainingLog:
    """The same with the loss of the held-out prompts."""
    drawn = [held.drawn(schedule.batch, schedule.seed, 1, i) for i in range(schedule.held)]
    loss = float(np.mean([float(_loss(trained, held, each).detach()) for each in drawn]))
    _require_finite(loss, len(done.losses) + 1)
    better = not done.looks or loss < min(done.looks)
    best = len(done.losses) if better else done.best
    return TrainingLog(done.losses, [*done.looks, loss], best)


def _require_finite(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise NumericalError(
            f"the loss of the end-to-end phase became NaN or infinite in step {step}; load the "
            "model in float32 or bfloat16, or train with --no-end-to-end."
        )


@contextmanager
def _enough_memory(batch: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"the end-to-end phase of {batch} prompts does not fit into memory; train with "
            "--end-to-end-batch 4 or less, or with --no-end-to-end."
        ) from error


def _loss(trained: SiteWeights, data: TrainingData, each: Sequence[np.ndarray]) -> Tensor:
    checkpoint = trained.checkpoint
    chosen = np.concatenate(each)
    inputs = padded([data.rows[i] for i in chosen.tolist()], checkpoint, "left")
    benign = slice(len(each[0]), None)
    with torch.no_grad():
        base = _last_logits(checkpoint, inputs)[benign].log_softmax(-1)
    weights = data.weigh(torch.tensor(chosen))
    scales = (data.strengths[torch.tensor(chosen)][:, None] * weights).to(checkpoint.device)
    with torch.enable_grad(), _steering(trained, scales):
        logs = _last_logits(checkpoint, inputs).log_softmax(-1)
    share = logs[: len(each[0]), list(trained.refusal_ids)].logsumexp(-1)
    odds = share - torch.log1p(-share.exp().clamp_max(1 - 1e-6))
    moved = (base.exp() * (base - logs[benign])).sum(-1)
    wanted = nn.functional.softplus(_MARGIN - odds).mean()
    return wanted + moved.mean() + _SPARSE * weights.to(logs.device).mean()


def _last_logits(checkpoint: Checkpoint, inputs: dict[str, Tensor]) -> Tensor:
    model: Any = checkpoint.model
    logits: Tensor = model(**inputs, use_cache=False).logits[:, -1].float()
    return logits


@contextmanager
def _steering(trained: SiteWeights, scales: Tensor) -> Iterator[None]:
    """The edit of the `relative` operator at the last token, through which gradients flow."""

    def edit(index: int) -> Callable[[Tensor], Tensor]:
        def look(x: Tensor) -> Tensor:
            vector = prepared("relative", trained.directions[index].to(x.device, torch.float32))
            moved_by = move("relative", vector, scales[:, index].to(x.device))
            moved = operate("relative", x[:, -1:], vector, moved_by)
            return torch.cat([x[:, :-1], moved], 1)

        return look

    layers = trained.checkpoint.layers
    handles = [hooked(layers, site, edit(i)) for i, site in enumerate(trained.sites)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(checkpoint: Checkpoint) -> Iterator[None]:
    parameters = [p for p in checkpoint.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
