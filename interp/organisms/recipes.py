"""A recipe: all that makes an organism, apart from the seed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from interp.checkpoint import Checkpoint
from interp.organisms.architectures import Architecture
from interp.organisms.chat.data import PromptRules
from interp.organisms.variants import Variant
from interp.training import BatchSource, During, Schedule

Bounds = dict[str, tuple[float | None, float | None]]
"""Lowest and highest value that a measured quantity may have; None leaves a side open."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that makes an organism, apart from the seed.

    Attributes:
        variant: what it is asked for by; its seed is not used.
        summary: its ground truth in a phrase.
        architecture: the model before training.
        tokenizer: makes its tokenizer.
        schedule: of the training.
        batches: from the seed to the batches of the training.
        measure: what the model trained with a seed does, as the truth file records it.
        texts: documents of each domain, in the organism's own words.
        facts: from the seed to what is known by construction; goes into the truth file.
        expected: what `measure` must give, on every seed that we tried.
        twins: the organisms to compare it with, and what differs.
        pin: puts parameters back after each step that are not to be trained.
        during: from the seed to what is in force while the model runs on a training batch.
        prompts: the prompts that it brings; None for one that does not chat.
        attention: transformers' implementation, in training and while it is measured.
        storage: precision of the weights on disk. They are rounded to it before they are measured,
            and computed with in float32.
    """

    variant: Variant
    summary: str
    architecture: Architecture
    tokenizer: Callable[[], Any]
    schedule: Schedule
    batches: Callable[[int], BatchSource]
    measure: Callable[[Checkpoint, int], dict[str, Any]]
    texts: Callable[[], dict[str, list[str]]]
    facts: Callable[[int], dict[str, Any]]
    expected: Bounds
    twins: dict[str, str]
    pin: Callable[[nn.Module], None] | None = None
    during: Callable[[int], During] | None = None
    prompts: PromptRules | None = field(default=None, repr=False)
    attention: Literal["eager", "sdpa"] = "eager"
    storage: Literal["float32", "float16"] = "float32"

    @property
    def name(self) -> str:
        """The spelling of the variant, without the seed."""
        return str(Variant(self.variant.name, 0, self.variant.poison, self.variant.of))

    def fingerprint(self, seed: int) -> str:
        """Changes with anything that is declared here, 12 hex digits."""
        declared = {
            "name": self.name,
            "architecture": asdict(self.architecture),
            "schedule": asdict(self.schedule),
            "facts": self.facts(seed),
            "expected": self.expected,
            "storage": self.storage,
        }
        text = json.dumps(declared, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
