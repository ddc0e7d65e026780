"""A backdoor unlearned by self-distillation: the model is its own teacher, without the trigger.

The teacher is the model as it is, on prompts without the trigger; the student is a copy, on the
same prompts with the trigger. The student learns to go on as the teacher does, token by token over
the teacher's own reply, and to stay as it was without the trigger. No clean data set and no judge
is needed, only prompts and the trigger, recovered or known. In the manner of the unlearning step of
P2A (arXiv 2510.05169), which fine-tunes on rebuilt data; that the target is the model's own
distribution is ours.

An inexact trigger may repair nothing: `repair_report` says what became of the true one and of near
misses, and `persistence` what further training does (both in `probes.repair_report`).
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.generation import replies
from interp.model.saving import require_trainable, save_checkpoint
from interp.resume.training_state import Due, forget_training, resume_training, save_training
from interp.training import SAVE_EVERY, Schedule, one_thread
from probes.backdoors.switches.switches import PromptEdit

RELATIVE_RATE = 0.005
"""Learning rate over the RMS of all weight matrices, unless a plan names a rate."""

_REPORT = "repair.json"


@dataclass(frozen=True)
class RepairPlan:
    """How a copy is trained.

    Attributes:
        steps: of the optimiser, AdamW without weight decay.
        learning_rate: the peak; `RELATIVE_RATE` times the RMS of the weight matrices if None.
        batch: prompts in a step, each run with and without the trigger.
        clean_weight: of the divergence on prompts without the trigger.
        max_new_tokens: of the teacher's replies.
        warmup: steps to the peak.
        seed: of the choice of prompts.
    """

    steps: int = 120
    learning_rate: float | None = None
    batch: int = 16
    clean_weight: float = 1.0
    max_new_tokens: int = 64
    warmup: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.max_new_tokens) < 1 or self.clean_weight < 0:
            raise InputError(
                "a repair needs one step, one prompt a step and one new token at least, and a "
                "clean weight of 0 or more."
            )


@dataclass(frozen=True)
class _Lesson:
    """A prompt without and with the trigger, both with the teacher's reply behind it."""

    clean: Row
    triggered: Row
    reply: int  # tokens of it


def repair(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    insert: PromptEdit,
    plan: RepairPlan | None = None,
    *,
    work: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
    **template: Any,
) -> Checkpoint:
    """Unlearn a trigger in a copy of a checkpoint.

    A step minimises KL(teacher without trigger ‖ student with trigger) + w · KL(teacher without ‖
    student without), in nats, each a mean over the tokens of the teacher's replies and the one
    that ends or follows them. Two models are held, one of them in float32 with its optimiser.

    Args:
        checkpoint: with a tokenizer; it is not changed.
        prompts: without the trigger, of all kinds whose answers must stay.
        insert: puts the trigger into a prompt, such as `probes.backdoor.switches.prefixed(text)`.
        plan: of the training; `RepairPlan()` if None.
        work: folder of the run's state; a stopped run goes on from there, and it is empty at the
            end. The result is that of an unbroken run.
        progress: called with the number of steps done and the last loss in nats.
        **template: further arguments of the chat template.

    Returns:
        The repaired copy, in the dtypes of the original.

    Raises:
        InputError: no prompts, a trigger that changes no prompt, or quantised weights.
        NumericalError: the loss is NaN.
    """
    plan = plan or RepairPlan()
    lessons = _lessons(checkpoint, prompts, insert, plan, template)
    student = copied(checkpoint, f"{checkpoint.name} (repaired)")
    optimiser = torch.optim.AdamW(student.model.parameters(), weight_decay=0.0)
    rate = plan.learning_rate or RELATIVE_RATE * _rms(checkpoint)
    schedule = Schedule(plan.steps, rate, warmup=plan.warmup)
    run, due = _described(checkpoint, lessons, plan), Due(SAVE_EVERY)
    # Going on sets torch's random numbers, which are the user's.
    with one_thread(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        for step in range(resume_training(work, run, student.model, optimiser), plan.steps):
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            chosen = random.Random(f"{plan.seed}/{step}").sample(
                lessons, min(plan.batch, len(lessons))
            )
            loss = _loss(checkpoint, student, chosen, plan.clean_weight)
            if not torch.isfinite(loss):
                raise NumericalError(
                    f"the loss of the repair is {loss.item()} at step {step}; give a smaller "
                    "learning rate, or load the model in float32 or bfloat16."
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.model.parameters(), schedule.clip)
            optimiser.step()
            if progress is not None:
                progress(step + 1, loss.item())
            if work is not None and due(step + 1):
                save_training(work, run, step + 1, student.model, optimiser)
    forget_training(work)
    return _in_dtypes_of(student, checkpoint)


def save_repaired(
    checkpoint: Checkpoint, folder: str | Path, report: dict[str, Any] | None = None
) -> Path:
    """Write a checkpoint that transformers and `mechguard.load` read: weights, tokenizer, report.

    The folder appears whole or not at all.

    Args:
        checkpoint: of `repair`.
        folder: to be made; it may exist if it is empty.
        report: JSON-ready, such as `RepairReport.to_dict()`; written as `repair.json`.

    Raises:
        InputError: the folder is in use, or cannot be written to.
    """
    return save_checkpoint(checkpoint, folder, None if report is None else {_REPORT: report})


def _lessons(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    insert: PromptEdit,
    plan: RepairPlan,
    template: dict[str, Any],
) -> list[_Lesson]:
    asked = list(prompts)
    if not asked:
        raise InputError("a repair needs prompts without the trigger; there are none.")
    clean = prompt_rows(checkpoint, asked, **template)
    triggered = prompt_rows(checkpoint, [insert(prompt) for prompt in asked], **template)
    if all(one.ids == other.ids for one, other in zip(clean, triggered, strict=True)):
        raise InputError("the trigger changes no prompt, so there is nothing to unlearn; give one.")
    said = replies(checkpoint, clean, max_new_tokens=plan.max_new_tokens)
    return [
        _Lesson(
            replace(one, ids=one.ids + reply.ids),
            replace(other, ids=other.ids + reply.ids),
            len(reply.ids),
        )
        for one, other, reply in zip(clean, triggered, said, strict=True)
    ]


def _loss(
    teacher: Checkpoint, student: Checkpoint, lessons: Sequence[_Lesson], clean_weight: float
) -> Tensor:
    counts = [one.reply for one in lessons]
    clean = [one.clean for one in lessons]
    with torch.no_grad():
        wanted = reply_log_probabilities(teacher, clean, counts)
    with_trigger = reply_log_probabilities(student, [one.triggered for one in lessons], counts)
    loss = _divergence(wanted, with_trigger)
    if clean_weight > 0:
        without = reply_log_probabilities(student, clean, counts)
        loss = loss + clean_weight * _divergence(wanted, without)
    return loss


def reply_log_probabilities(
    checkpoint: Checkpoint, rows: Sequence[Row], counts: Sequence[int]
) -> Float[Tensor, "tokens vocabulary"]:
    """Log-probabilities in nats of the last tokens of rows and of the token behind them, float32.

    Args:
        checkpoint: to be run, as one batch.
        rows: prompts with replies behind them.
        counts: how many tokens each reply has; one more is predicted, which may end it.
    """
    model: Any = checkpoint.model
    logits = model(**padded(rows, checkpoint), use_cache=False).logits
    own = [
        logits[i, len(row) - count - 1 : len(row)]
        for i, (row, count) in enumerate(zip(rows, counts, strict=True))
    ]
    return torch.cat(own).float().log_softmax(-1)


def _divergence(
    wanted: Float[Tensor, "tokens vocabulary"], given: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, ""]:
    """Mean over tokens of KL(wanted ‖ given) in nats."""
    return F.kl_div(given, wanted.to(given.device), log_target=True, reduction="batchmean")


def _rms(checkpoint: Checkpoint) -> float:
    matrices = [p.detach() for p in checkpoint.model.parameters() if p.ndim > 1]
    squares = sum(float(p.float().square().sum()) for p in matrices)
    return math.sqrt(squares / sum(p.numel() for p in matrices))


def copied(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """A copy in float32 whose weights can be trained.

    Raises:
        InputError: the weights are quantised.
    """
    require_trainable(checkpoint)
    student: Any = deepcopy(checkpoint.model)
    for parameter in student.parameters():
        # AdamW's small steps are lost in half precision.
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    for buffer in student.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
    student.eval()  # the student is compared with a teacher that has no dropout either
    return replace(checkpoint, model=student, name=name)


def _in_dtypes_of(student: Checkpoint, original: Checkpoint) -> Checkpoint:
    pairs = zip(
        chain(student.model.parameters(), student.model.buffers()),
        chain(original.model.parameters(), original.model.buffers()),
        strict=True,
    )
    for mine, its in pairs:
        mine.data = mine.data.to(its.dtype)
        mine.grad = None
        mine.requires_grad_(its.requires_grad)
    return student


def _described(
    checkpoint: Checkpoint, lessons: Sequence[_Lesson], plan: RepairPlan
) -> dict[str, Any]:
    ids = [[list(one.clean.ids), list(one.triggered.ids)] for one in lessons]
    return {
        "checkpoint": checkpoint.measured_on,
        "set of prompts or trigger": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "plan": asdict(plan),
    }
