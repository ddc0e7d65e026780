"""What a policy costs and what its gate is worth, on prompts that it was not made from."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.generation import Edit, Reply
from probes.statistics.metrics import auroc
from steering.policy.policy import Policy
from steering.runtime.decisions import Decision
from steering.runtime.gates import ControllerGate, LogisticGate
from steering.runtime.runtime import apply


@dataclass(frozen=True)
class Forced:
    """What a policy does to the base model's own replies, token by token.

    Attributes:
        kl: KL(base ‖ steered) in nats at every token, for each reply.
        loss_delta: by how many nats each token's loss rises.
    """

    kl: list[Float[np.ndarray, "..."]]
    loss_delta: list[Float[np.ndarray, "..."]]

    def means(self) -> tuple[float, float]:
        """Mean KL and mean rise of the loss, in nats per token over all replies together."""
        return float(np.concatenate(self.kl).mean()), float(np.concatenate(self.loss_delta).mean())


def forced_on_replies(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    replies: Sequence[Reply],
    edit: Edit,
    batch_tokens: int = 8192,
) -> Forced:
    """Run base and steered model over the base's replies.

    Equal logits give a KL of exactly 0, so a closed gate shows as such.

    Args:
        checkpoint: unsteered.
        rows: prompts.
        replies: of the unsteered model to these.
        edit: the policy (`steering.as_edit`).
        batch_tokens: most tokens in a batch.

    Raises:
        InputError: no reply has a token.
        NumericalError: logits are NaN or infinite.
    """
    spoken = [
        Row(i, (*row.ids, *reply.ids), row.domain, row.segments)
        for i, (row, reply) in enumerate(zip(rows, replies, strict=True))
        if reply.ids
    ]
    if not spoken:
        raise InputError("the model replies nothing, so there is nothing to compare on.")
    by_index = {row.index: row for row in spoken}
    kl: dict[int, np.ndarray] = {}
    delta: dict[int, np.ndarray] = {}
    for batch in RowPlan.make(spoken, batch_tokens).batches:
        here = [by_index[index] for index in batch]
        plain = _log_probabilities(checkpoint, here, rows, None)
        moved = _log_probabilities(checkpoint, here, rows, edit)
        for row, p, q in zip(here, plain, moved, strict=True):
            # p is 0 where the model rules a token out; 0 · log 0 counts 0.
            nats = torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(-1)
            wanted = torch.tensor(row.ids[len(rows[row.index]) :])[:, None]
            kl[row.index] = nats.numpy()
            delta[row.index] = (p.gather(-1, wanted) - q.gather(-1, wanted))[:, 0].numpy()
    none = np.zeros(0)
    order = range(len(rows))
    return Forced([kl.get(i, none) for i in order], [delta.get(i, none) for i in order])


@torch.no_grad()
def _log_probabilities(
    checkpoint: Checkpoint, batch: Sequence[Row], prompts: Sequence[Row], edit: Edit | None
) -> list[Float[Tensor, "tokens vocabulary"]]:
    """Of the tokens of each reply, in float64 on the CPU."""
    model: Any = checkpoint.model
    with nullcontext() if edit is None else edit(batch):
        logits = model(**padded(batch, checkpoint), use_cache=False).logits
    found = []
    for number, row in enumerate(batch):
        own = logits[number, len(prompts[row.index]) - 1 : len(row) - 1].cpu().double()
        if not bool(torch.isfinite(own).all()):
            raise NumericalError(
                f"the logits of prompt {row.index} are NaN or infinite; load the model in float32 "
                "or bfloat16."
            )
        found.append(own.log_softmax(-1))
    return found


def threshold_of(policy: Policy) -> float | None:
    """Above which score a gate opens; None if nothing closes it, or thresholds differ by site."""
    gate = policy.gate
    if isinstance(gate, LogisticGate) or (isinstance(gate, ControllerGate) and gate.cut):
        return float(gate.threshold)
    return 0.0 if gate.kind == "cosine" else None


@dataclass(frozen=True)
class GateQuality:
    """How well a gate distinguishes harmful from benign prompts.

    Attributes:
        auroc: of its scores; None for a policy without a gate, or with one kind of prompts.
        threshold: above which it opens; None for a policy without a gate.
        fpr: share of benign prompts that are steered at all, 1 without a gate; None without any.
        tpr: share of harmful prompts that are steered at all, 1 without a gate; None without any.
        n: prompts.
    """

    auroc: float | None
    threshold: float | None
    fpr: float | None
    tpr: float | None
    n: int


def gate_quality(
    policy: Policy, decisions: Mapping[int, Sequence[Decision]], harmful: Bool[np.ndarray, " n"]
) -> GateQuality:
    """How well a gate distinguishes harmful from benign prompts.

    Args:
        policy: whose gate.
        decisions: of each row, by its index.
        harmful: which rows are.
    """
    found = [decisions[i][0] for i in range(len(harmful))]
    opened = np.array([decision.open for decision in found])
    read = np.array([np.nan if d.score is None else d.score for d in found])
    gated = bool(policy.gate.reads) and harmful.any() and not harmful.all()
    return GateQuality(
        auroc=auroc(read, harmful).value if gated else None,
        threshold=threshold_of(policy),
        fpr=float(opened[~harmful].mean()) if not harmful.all() else None,
        tpr=float(opened[harmful].mean()) if harmful.any() else None,
        n=len(harmful),
    )


def throughput_ratio(
    checkpoint: Checkpoint,
    policy: Policy,
    rows: Sequence[Row],
    *,
    new_tokens: int = 32,
    repeats: int = 5,
) -> float:
    """Tokens per second of `generate` under a policy over those without it.

    Both sides write the same number of tokens to the same batch. They alternate, the first one in
    turn, and the median of the ratios counts; a first pair warms up and is dropped. Attaching is
    part of the steered side.
    """
    inputs = padded(rows, checkpoint, "left")
    ratios = []
    for number in range(repeats + 1):
        seconds = {}
        for steered in (False, True) if number % 2 else (True, False):
            begun = time.perf_counter()
            with apply(checkpoint, policy) if steered else nullcontext():
                _write(checkpoint, inputs, new_tokens)
            seconds[steered] = time.perf_counter() - begun
        ratios.append(seconds[False] / seconds[True])
    return statistics.median(ratios[1:])


@torch.no_grad()
def _write(checkpoint: Checkpoint, inputs: dict[str, Tensor], new_tokens: int) -> None:
    model: Any = checkpoint.model
    model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
    )
    if checkpoint.device.type == "cuda":
        torch.cuda.synchronize(checkpoint.device)
