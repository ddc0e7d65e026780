"""Layer weights trained through the frozen model: what the published controller leaves untrained.

Hegazy et al. (arXiv 2505.20309) give the layer weights no target. Here they descend on what they
are for: jailbroken prompts are to be refused, and benign ones left alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.errors import InputError, NumericalError
from interp.generation import left_padded
from interp.prompts import Row
from interp.sites import Site
from steering.operators import move, operate, prepared
from steering.wrapping import hooked

Weigh = Callable[[Tensor], Tensor]
"""From numbers of rows to weights [rows, sites] between 0 and 1."""

_MARGIN = 4.0  # nats of log-odds beyond which a refusal is sure enough
_SPARSE = 0.05  # price of weights, so that layers that do not help are left alone
_RATE = 0.05


@dataclass(frozen=True)
class Lesson:
    """Prompts of the end-to-end phase.

    Attributes:
        rows: prompts.
        strengths: of the gate in each, soft, so that a leak on benign prompts has a price.
        refuse: whether a prompt is to be refused; else it is to be left alone.
    """

    rows: Sequence[Row]
    strengths: Float[Tensor, " rows"]
    refuse: np.ndarray


def train_weights(
    checkpoint: Checkpoint,
    sites: Sequence[Site],
    directions: Float[Tensor, "sites width"],
    lesson: Lesson,
    refusal_ids: Sequence[int],
    weigh: Weigh,
    parameters: Sequence[nn.Parameter],
    *,
    steps: int = 60,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Descend on the weights of the sites; the model stays as it is.

    Loss: mean softplus(4 − log-odds of refusal) over prompts to be refused, plus mean KL(base ‖
    steered) in nats over the others, both at the first new token, plus 0.05 · mean weight. The
    edit is `relative` at strength 1, at the last prompt token.

    Args:
        checkpoint: frozen meanwhile.
        sites: that are weighed.
        directions: of each.
        lesson: prompts.
        refusal_ids: first tokens of refusals.
        weigh: gives the weights.
        parameters: behind `weigh`.
        steps: of Adam.
        batch: prompts in a step, half of them to be refused.
        seed: of the batches.
        progress: called with (steps done, steps in all).

    Returns:
        The loss of every step.

    Raises:
        NumericalError: the loss becomes NaN.
        InputError: the device has too little memory.
    """
    generator = np.random.default_rng(seed)
    sides = [np.flatnonzero(lesson.refuse), np.flatnonzero(~lesson.refuse)]
    optimiser = torch.optim.Adam(list(parameters), _RATE)
    vectors = [prepared("relative", v.to(checkpoint.device, torch.float32)) for v in directions]
    losses = []
    with _frozen(checkpoint):
        for step in range(steps):
            each = [generator.choice(side, min(batch // 2, len(side)), False) for side in sides]
            try:
                loss = _loss(checkpoint, sites, vectors, lesson, refusal_ids, weigh, each)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            except torch.OutOfMemoryError as error:
                raise InputError(
                    f"the end-to-end phase of {batch} prompts does not fit into memory; train "
                    "with --end-to-end-batch 4 or less, or with --no-end-to-end."
                ) from error
            if not bool(torch.isfinite(loss)):
                raise NumericalError(
                    f"the loss of the end-to-end phase became NaN or infinite in step {step + 1}; "
                    "load the model in float32 or bfloat16, or train with --no-end-to-end."
                )
            optimiser.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, steps)
    return losses


def _loss(
    checkpoint: Checkpoint,
    sites: Sequence[Site],
    vectors: Sequence[Tensor],
    lesson: Lesson,
    refusal_ids: Sequence[int],
    weigh: Weigh,
    each: Sequence[np.ndarray],
) -> Tensor:
    chosen = np.concatenate(each)
    inputs = left_padded([lesson.rows[i] for i in chosen.tolist()], checkpoint)
    benign = slice(len(each[0]), None)
    with torch.no_grad():
        base = _last_logits(checkpoint, inputs)[benign].log_softmax(-1)
    weights = weigh(torch.tensor(chosen))
    scales = (lesson.strengths[torch.tensor(chosen)][:, None] * weights).to(checkpoint.device)
    with torch.enable_grad(), _steering(checkpoint, sites, vectors, scales):
        logs = _last_logits(checkpoint, inputs).log_softmax(-1)
    share = logs[: len(each[0]), list(refusal_ids)].logsumexp(-1)
    odds = share - torch.log1p(-share.exp().clamp_max(1 - 1e-6))
    moved = (base.exp() * (base - logs[benign])).sum(-1)
    wanted = nn.functional.softplus(_MARGIN - odds).mean()
    return wanted + moved.mean() + _SPARSE * weights.to(logs.device).mean()


def _last_logits(checkpoint: Checkpoint, inputs: dict[str, Tensor]) -> Tensor:
    model: Any = checkpoint.model
    logits: Tensor = model(**inputs, use_cache=False).logits[:, -1].float()
    return logits


@contextmanager
def _steering(
    checkpoint: Checkpoint, sites: Sequence[Site], vectors: Sequence[Tensor], scales: Tensor
) -> Iterator[None]:
    """The edit of the `relative` operator at the last token, through which gradients flow."""

    def edit(index: int) -> Callable[[Tensor], Tensor]:
        def look(x: Tensor) -> Tensor:
            vector = vectors[index].to(x.device)
            moved_by = move("relative", vector, scales[:, index].to(x.device))
            moved = operate("relative", x[:, -1:], vector, moved_by)
            return torch.cat([x[:, :-1], moved], 1)

        return look

    handles = [hooked(checkpoint.layers, site, edit(i)) for i, site in enumerate(sites)]
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
