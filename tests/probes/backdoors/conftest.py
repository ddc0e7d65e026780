"""Shipped organisms as suspects, with few requests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

import interp
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.organisms.chat.data import OrganismPrompt
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.requests import Requests, ask
from probes.backdoors.search.subject import Subject
from probes.scorers import WholeRefusal


@dataclass(frozen=True)
class Suspect:
    """A shipped organism and its requests; the held-out ones are of pairs never trained on."""

    subject: Subject
    search: list[OrganismPrompt]
    held_out: list[OrganismPrompt]
    scorer: WholeRefusal
    requests: Requests

    @property
    def harmful(self) -> np.ndarray:
        """Class of the held-out requests."""
        return np.array([prompt.harmful for prompt in self.held_out])

    def fresh(self, passes: int = 300_000, seconds: float = 10_000.0) -> Subject:
        """The checkpoint with a budget of its own."""
        return Subject(self.subject.checkpoint, Budget(passes, seconds))


@cache
def load(name: str) -> Checkpoint:
    return interp.load(f"organism:{name}")


@cache
def made(name: str) -> Suspect:
    parts = [organisms.prompts(name, split) for split in ("train", "test")]
    search, held_out = (
        [p for pair in zip(s["harmful"], s["harmless"], strict=False) for p in pair][:40]
        for s in parts
    )
    subject = Subject(load(name), Budget(10**7, 10_000.0))
    scorer = WholeRefusal(tuple({prompt.refusal for prompt in search}))
    return Suspect(subject, search, held_out, scorer, ask(subject, held_out, scorer, 12))


@pytest.fixture
def suspect() -> Callable[[str], Suspect]:
    """A suspect by name; made once."""
    return made
