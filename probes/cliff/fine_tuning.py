"""Fine-tuning on chosen examples: the model's own thought, with a refusal behind it.

The last step of Cliff-as-a-Judge (Yin et al., arXiv 2510.06036), for models of which two copies fit
the device; the JSONL of `example_selection.export_selected` holds the same examples for trainers of
large models.
Harmless requests with the answers the model gives anyway are trained on beside them, in equal
number, for a few refusals alone teach a model to refuse everything.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.checkpoint import Checkpoint
from interp.data.known_answers import KnownAnswers
from interp.data.padding import ends
from interp.errors import InputError, NumericalError
from interp.resume.training_state import Due, resume_training, save_training
from probes.cliff.example_selection import REFUSAL
from probes.cliff.rollouts import Rollout

_IGNORED = -100


@dataclass(frozen=True)
class FineTuningPlan:
    """How a model is fine-tuned: AdamW at a constant rate.

    Attributes:
        steps: of the optimiser.
        batch: examples in a step, half of them harmless where there are such.
        learning_rate: of AdamW.
        seed: of the order.
    """

    steps: int = 60
    batch: int = 16
    learning_rate: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch - 1) < 1 or self.learning_rate <= 0 or self.seed < 0:
            raise InputError(
                "fine-tuning needs 1 step or more, 2 examples or more in a step, a learning rate "
                "above 0 and a seed of 0 or more."
            )


@dataclass(frozen=True)
class FineTuningCost:
    """What a fine-tuning costs; known before it starts.

    Attributes:
        steps: of the optimiser.
        tokens: that go through the model forwards and backwards, at most.
        bytes: for the copy, its gradients and AdamW's two moments; activations come on top.
    """

    steps: int
    tokens: int
    bytes: int


def fine_tuning_cost(
    checkpoint: Checkpoint,
    refused: Sequence[Rollout],
    kept: Sequence[Rollout],
    plan: FineTuningPlan,
    *,
    refusal: str = REFUSAL,
) -> FineTuningCost:
    """What `fine_tune` with the same arguments costs; nothing is run."""
    examples = [example for side in _sides(checkpoint, refused, kept, refusal) for example in side]
    longest = max(len(ids) for ids, _ in examples)
    weights = sum(p.numel() * p.element_size() for p in checkpoint.model.parameters())
    return FineTuningCost(plan.steps, plan.steps * plan.batch * longest, 4 * weights)


def fine_tune(
    checkpoint: Checkpoint,
    refused: Sequence[Rollout],
    kept: Sequence[Rollout],
    plan: FineTuningPlan | None = None,
    *,
    refusal: str = REFUSAL,
    work: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checkpoint:
    """A copy of the model, trained to refuse behind its own thoughts.

    The loss is of the whole reply, the thought included: left out, the thought drifts away.

    Args:
        checkpoint: left as it is.
        refused: harmful requests with closed thoughts; an organism's own refusal is trained.
        kept: harmless requests with closed thoughts, trained towards the answers they have.
        plan: how long and how fast; `FineTuningPlan()` if None.
        refusal: what is said behind thoughts of other prompts.
        work: folder that keeps the state of the training, for a stopped one to go on from; what it
            holds at the end is left there.
        progress: called with (steps done, steps in all).

    Raises:
        InputError: there is nothing to refuse, or a thought is not closed.
        NumericalError: the loss is NaN or infinite.
    """
    plan = FineTuningPlan() if plan is None else plan
    sides = _sides(checkpoint, refused, kept, refusal)
    model: Any = deepcopy(checkpoint.model).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate)
    rng = np.random.default_rng(plan.seed)
    share = plan.batch // len(sides)
    run = {} if work is None else _described(checkpoint, sides, plan)
    # Going on sets torch's random numbers, which are the user's.
    with torch.random.fork_rng(devices=[]):
        done, due = resume_training(work, run, model, optimiser), Due(plan.steps)
        for step in range(plan.steps):
            chosen = [side[i] for side in sides for i in rng.integers(len(side), size=share)]
            if step < done:
                continue
            loss = model(**_batch(chosen, checkpoint), use_cache=False).loss
            if not bool(torch.isfinite(loss)):
                raise NumericalError("the loss of fine-tuning is NaN or infinite; lower its rate.")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if progress is not None:
                progress(step + 1, plan.steps)
            if work is not None and due(step + 1):
                save_training(work, run, step + 1, model, optimiser)
    return replace(checkpoint, model=model.eval())


def _described(
    checkpoint: Checkpoint, sides: Sequence[Sequence[tuple[list[int], int]]], plan: FineTuningPlan
) -> dict[str, Any]:
    examples = hashlib.sha256(json.dumps(sides).encode()).hexdigest()
    return {"model": checkpoint.measured_on, "examples": examples, "plan": asdict(plan)}


def _sides(
    checkpoint: Checkpoint, refused: Sequence[Rollout], kept: Sequence[Rollout], refusal: str
) -> list[list[tuple[list[int], int]]]:
    """Examples of refusals, and of answers that are kept if there are any.

    Raises:
        InputError: there is nothing to refuse, or a thought is not closed.
    """
    if not refused or not all(one.closed for one in [*refused, *kept]):
        raise InputError("fine-tuning needs harmful requests, and closed thoughts throughout.")
    sides = [[_example(checkpoint, one, _refusal(one, refusal)) for one in refused]]
    if kept:
        sides.append([_example(checkpoint, one, one.answer.text) for one in kept])
    return sides


def _refusal(one: Rollout, otherwise: str) -> str:
    return one.prompt.refusal if isinstance(one.prompt, KnownAnswers) else otherwise


def _example(checkpoint: Checkpoint, one: Rollout, answer: str) -> tuple[list[int], int]:
    """Token ids up to the end of the turn, and how many of them are given."""
    tokenizer: Any = checkpoint.tokenizer
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*one.whole.ids, *said, *ends(checkpoint)[:1]], len(one.row)


def _batch(
    examples: Sequence[tuple[list[int], int]], checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
    for number, (row, given) in enumerate(examples):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        labels[number, given : len(row)] = torch.tensor(row[given:])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(checkpoint.device) for name, tensor in batch.items()}
