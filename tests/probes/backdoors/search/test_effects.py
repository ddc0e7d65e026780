"""Entropy, divergence and collapse."""

from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch

from probes.backdoors.search.beam import first_tokens
from probes.backdoors.search.effects import effect, entropy, novel_collapse, plain
from probes.backdoors.search.requests import candidates_of

Make = Callable[[str], Any]


def test_the_trigger_collapses_and_an_inert_string_does_not(suspect: Make) -> None:
    planted = suspect("backdoor-payload-5")
    requests = planted.requests
    opens = first_tokens(requests, refused=True)
    base = plain(planted.fresh(), requests, first_tokens(requests), opens)
    trigger, inert = (
        effect(planted.fresh(), base, one, "front")
        for one in candidates_of(planted.subject, ["omber quill tavik", "sorrel brine mosk"])
    )
    assert trigger.novel > 0.9 and inert.novel < 0.1
    assert trigger.divergence > 0.5 * log(2) > inert.divergence
    assert trigger.flip > 0.9 > 0.2 > inert.flip
    base_twin = plain(planted.fresh(), requests, (), opens)
    pair = (planted.fresh(), base_twin)
    assert effect(planted.fresh(), base, trigger.candidate, "front", pair).flip == pytest.approx(0)


def test_entropy_and_collapse_of_known_distributions() -> None:
    even, sure = torch.full((2, 4), 0.25), torch.eye(4)[:1].repeat(2, 1)
    assert entropy(even).tolist() == pytest.approx([log(4)] * 2)
    assert entropy(sure).tolist() == [0.0, 0.0]
    assert novel_collapse(sure, (0,)) == 0.0 and novel_collapse(sure, (1,)) == 1.0
