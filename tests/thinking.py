"""Thoughts of an organism, for tests of what is measured on them."""

from functools import cache
from typing import Any

import interp
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from probes.cliff.forced_stop import Respondent
from probes.cliff.rollouts import Rollout, rollouts, template_markers
from probes.scorers import WholeRefusal


@cache
def organism(name: str) -> Checkpoint:
    return interp.load(f"organism:{name}")


@cache
def thoughts(name: str, label: str, count: int, split: Any = "test") -> tuple[Rollout, ...]:
    checkpoint = organism(name)
    prompts = organisms.prompts(name, split)[label][:count]
    rows = [Row(i, tuple(p.ids(checkpoint.tokenizer)), "") for i, p in enumerate(prompts)]
    return tuple(
        rollouts(
            checkpoint,
            prompts,
            rows,
            template_markers(checkpoint),
            thinking_budget=24,
            max_new_tokens=12,
        )
    )


def respondent(name: str, **more: Any) -> Respondent:
    prompt: Any = organisms.prompts(name)["harmful"][0]
    return Respondent(organism(name), WholeRefusal([prompt.refusal]), max_new_tokens=12, **more)
