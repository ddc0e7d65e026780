"""Searching for a trigger along gradients, as trigger-inversion defences do: an option.

Greedy coordinate descent (Zou et al., arXiv 2307.15043, Algorithm 1), turned to defence: the
tokens of a string in front of plain requests are exchanged so that a target, found by target
inversion, becomes likelier. The gradient by the one-hot tokens proposes exchanges, and forward
passes judge them. It needs a target, and memory for one backward pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.backdoors.search.budget import Exhausted
from probes.backdoors.search.requests import Candidate, Requests, decode
from probes.backdoors.search.subject import Subject

_TOKENS = 3  # of the target
_PROPOSALS, _STEPS = 16, 12


def gradient_search(
    subject: Subject,
    requests: Requests,
    target: Sequence[int],
    vocabulary: Sequence[int],
    *,
    length: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Candidate, float]]:
    """Strings by the mean log-probability of a target behind them, the best first.

    A backward pass counts as two forward passes. What was found when the budget ran out is kept.

    Args:
        subject: the checkpoint.
        requests: plain prompts.
        target: what the string is to bring about; its first three tokens count.
        vocabulary: tokens of the string.
        length: of the string.
        seed: of its first tokens.
        progress: called with (steps done, steps at most).
    """
    rng = np.random.default_rng(seed)
    head = tuple(target[:_TOKENS])
    ids = tuple(int(i) for i in rng.choice(vocabulary, size=length))
    found: dict[tuple[int, ...], float] = {}
    try:
        for step in range(_STEPS):
            proposed = _proposed(subject, requests, ids, head, vocabulary)
            values = {one: _value(subject, requests, one, head) for one in (ids, *proposed)}
            found |= values
            if progress is not None:
                progress(step + 1, _STEPS)
            best = max(values, key=lambda one: values[one])
            if best == ids:
                break
            ids = best
    except Exhausted:
        pass
    ordered = sorted(found, key=lambda one: (-found[one], one))
    return [(Candidate(decode(subject, one), one, "gradient"), found[one]) for one in ordered]


def token_gradients(
    subject: Subject, requests: Requests, ids: Sequence[int], target: Sequence[int]
) -> Float[Tensor, "length vocabulary"]:
    """Gradient of the target's mean log-probability by one-hot tokens of a string in front.

    Raises:
        Exhausted: the budget does not allow it.
    """
    subject.budget.take(3 * len(requests))
    model: Any = subject.checkpoint.model
    table = subject.checkpoint.embedding.get_parameter("weight")
    total = torch.zeros(len(ids), len(table), device=table.device)
    wanted = torch.tensor(list(target), device=table.device)
    for row, changed in zip(requests.rows, requests.with_ids(ids, "front"), strict=True):
        begin = row.segments["instruction"][0]
        tokens = torch.tensor([*changed.ids, *target], device=table.device)
        with torch.enable_grad():
            embedded = subject.checkpoint.embedding(tokens).detach().requires_grad_(True)
            logits = model(inputs_embeds=embedded[None], use_cache=False).logits[0]
            places = logits[-len(target) - 1 : -1].float().log_softmax(-1)
            value = places.gather(-1, wanted[:, None]).mean()
            (slope,) = torch.autograd.grad(value, embedded)
        total += (slope[begin : begin + len(ids)] @ table.T).detach().float()
    return total.cpu() / len(requests)


def _proposed(
    subject: Subject,
    requests: Requests,
    ids: tuple[int, ...],
    target: Sequence[int],
    vocabulary: Sequence[int],
) -> list[tuple[int, ...]]:
    """Strings that the gradient promises most of."""

    def exchanged() -> list[tuple[int, ...]]:
        slopes = token_gradients(subject, requests, ids, target)
        return _exchanges(ids, slopes, vocabulary)

    return [tuple(one) for one in subject.once("gradient", [ids, list(target)], exchanged)]


def _exchanges(
    ids: tuple[int, ...], slopes: Float[Tensor, "length vocabulary"], vocabulary: Sequence[int]
) -> list[tuple[int, ...]]:
    """The exchanges of one token that the gradient promises most of."""
    allowed = torch.tensor(list(vocabulary))
    gain = slopes[:, allowed] - slopes.gather(1, torch.tensor(ids)[:, None])
    best = gain.flatten().topk(min(_PROPOSALS, gain.numel())).indices.tolist()
    made = []
    for flat in best:
        place, token = divmod(flat, len(allowed))
        made.append((*ids[:place], int(allowed[token]), *ids[place + 1 :]))
    return [one for one in dict.fromkeys(made) if one != ids]


def _value(
    subject: Subject, requests: Requests, ids: tuple[int, ...], target: Sequence[int]
) -> float:
    def forced() -> float:
        chances = subject.forced_probability(requests.with_ids(ids, "front"), target)
        return float(chances.double().clamp_min(1e-12).log().mean())

    return float(subject.once("value", [ids, list(target)], forced))
