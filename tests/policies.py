"""One policy of each kind for a tiny model, with gates that open for some rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from models_under_test import model_under_test
from torch import Tensor

from interp.doctor.model_under_test import ModelUnderTest, reading
from interp.model.sites import Site
from steering import act_add, alphasteer, angular, cast, was, was_plus
from steering.policy.policy import Policy
from steering.runtime.gates import ControllerGate, CosineGate, Gate, LogisticGate
from steering.runtime.span import Span

LENGTH = 8  # no longer than the window
PROMPT = 6
STEPS = 4


def tiny_model(family: str, dtype: torch.dtype = torch.float32) -> ModelUnderTest:
    return model_under_test(family, LENGTH, dtype)


def prompts(p: ModelUnderTest) -> tuple[Tensor, Tensor]:
    """A left-padded batch of four rows, 6, 5, 4 and 3 tokens long."""
    return p.padded("left", PROMPT)


def post(*layers: int) -> list[Site]:
    return [Site("resid_post", layer) for layer in layers]


def vectors(p: ModelUnderTest, count: int, size: float = 1.0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(count, p.checkpoint.anatomy.width, generator=generator)


def decision_states(p: ModelUnderTest, reads: list[Site], position: int = -1) -> Tensor:
    """States [rows, reads, width] at the decision token."""
    ids, real = prompts(p)
    with torch.inference_mode(), reading(p.checkpoint, reads) as found:
        p.logits(ids, real)
    return torch.stack([found[site][:, position].float() for site in reads], 1)


def logistic(
    p: ModelUnderTest, layer: int = 1, position: int = -1, hard: bool = True
) -> LogisticGate:
    """Open for half of the rows."""
    reads = post(layer)
    coefficients = vectors(p, 1, seed=5)
    scores = (decision_states(p, reads, position) * coefficients).sum((1, 2))
    return LogisticGate(reads, coefficients, -_middle(scores), 0.0, position, hard)


def cosine(p: ModelUnderTest, layers: tuple[int, ...] = (0, 1)) -> CosineGate:
    """Open for half of the rows."""
    reads = post(*layers)
    conditions = vectors(p, len(reads), seed=6)
    similarity = CosineGate(reads, conditions, 0.0).similarity(decision_states(p, reads))
    return CosineGate(reads, conditions, _middle(similarity.amax(-1)))


def controller(
    p: ModelUnderTest, sites: int, layers: tuple[int, ...], cut: bool = True, kept: int = 0
) -> ControllerGate:
    """Open for half of the rows where it has a threshold."""
    reads, width = post(*layers), p.checkpoint.anatomy.width
    options: dict[str, Any] = {"hidden": 16}
    if kept:
        rows = torch.linalg.qr(vectors(p, kept, seed=7).repeat(1, len(reads)).T)[0].T
        options |= {"centre": torch.zeros(len(reads) * width), "components": rows.contiguous()}
    torch.manual_seed(3)
    gate = ControllerGate(reads, width, sites, **options, threshold=0.0 if cut else None)
    with torch.no_grad():
        if cut:
            scores = gate(decision_states(p, reads)).score
            middle = _middle(scores)
            gate.threshold.copy_(middle)
            gate.head.bias[0] += 1.0 - middle  # so that open rows are pushed the right way
            gate.threshold.fill_(1.0)
        else:
            gate.head.bias[0] = 1.5
    return gate.eval()


def _middle(scores: Tensor) -> Tensor:
    two = scores.sort().values[1:3]
    return two.mean()


def gated(p: ModelUnderTest, gate: Gate, layer: int = 2, span: Span | None = None) -> Policy:
    policy = act_add(post(layer), vectors(p, 1, 3.0), 1.0, span or Span.onward(gate.position))
    return replace(policy, name="gated", gate=gate)


# Each for a batch of the four rows of `prompts`.
CASES: dict[str, Callable[[ModelUnderTest], Policy]] = {
    "actadd": lambda p: act_add(
        [Site("resid_pre", 1), Site("resid_post", 2)], vectors(p, 2, 2.0), 1.0
    ),
    "everything": lambda p: act_add(post(1), vectors(p, 1, 2.0), 1.0, Span(None, None, skip=1)),
    "gated": lambda p: gated(p, logistic(p)),
    "last": lambda p: gated(p, logistic(p, position=-2), span=Span.last()),
    "cast": lambda p: cast(post(1, 3), vectors(p, 2, 2.0), cosine(p), keep_norm=True),
    "alphasteer": lambda p: alphasteer(post(2, 3), vectors(p, 2), vectors(p, 2, 0.3, seed=2), 1.0),
    "angular": lambda p: angular(post(2), vectors(p, 1), 0.8, logistic(p)),
    "was": lambda p: was(
        vectors(p, 1)[0], p.checkpoint.anatomy.n_layers, controller(p, 4, (2, 3), cut=False), 8.0
    ),
    # Edits the prompt's last token below the layers that decide about it.
    "was_plus": lambda p: was_plus(
        post(0, 2), vectors(p, 2), controller(p, 2, (1, 3), kept=8), 1.0
    ),
    "soft": lambda p: was_plus(post(1, 2), vectors(p, 2), logistic(p, hard=False), 1.0),
}


def generate(p: ModelUnderTest, ids: Tensor, real: Tensor, **options: Any) -> Tensor:
    given = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False} | options
    tokens: Tensor = p.checkpoint.model.generate(ids, attention_mask=real.long(), **given)
    return tokens
