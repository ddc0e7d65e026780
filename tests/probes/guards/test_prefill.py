"""Watching a prefill: the same scores as a capture, the same tokens, and nothing left behind."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB, tiny
from torch import nn
from transformers import StoppingCriteria

from interp.capture.prompt_states import prompt_states
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row
from interp.errors import InputError
from interp.resolve import load
from probes.guards.guard import Guard
from probes.guards.readout import SITE, Readout
from probes.guards.threshold import Threshold

LENGTHS = (21, 13, 20)
BEHIND = 4


def guard_of(checkpoint: Checkpoint, layers: tuple[int, ...] | None = None) -> Guard:
    rng = np.random.default_rng(0)
    layers = layers or tuple(range(checkpoint.anatomy.n_layers))
    shape = (len(layers), checkpoint.anatomy.width)
    weights, centres = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    return Guard(
        checkpoint, "centred", Readout(layers, weights, centres, 0.5, True), Threshold(0.0)
    )


def rows_of() -> list[Row]:
    generator = torch.Generator().manual_seed(3)
    return [
        Row(
            number,
            tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist()),
            "",
            {
                "instruction": (2, length - BEHIND),
                "post_instruction": (length - BEHIND, length),
            },
        )
        for number, length in enumerate(LENGTHS)
    ]


def slow_scores(guard: Guard, rows: list[Row]) -> list[float]:
    """From a capture, row by row and layer by layer."""
    readout = guard.readout
    states = prompt_states(guard.checkpoint, rows, site=SITE, layers=readout.layers)
    scores = []
    for row in states.t_inst.astype(float):
        score = readout.bias
        for h, weights, centre in zip(row, readout.weights, readout.centres, strict=True):
            score += float((h - centre) @ weights / np.linalg.norm(h - centre))
        scores.append(score)
    return scores


def hooks(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


def logits(checkpoint: Checkpoint, inputs: dict[str, Any]) -> torch.Tensor:
    model: Any = checkpoint.model
    with torch.inference_mode():
        found: torch.Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pass_over_a_padded_batch(family: str, side: Literal["left", "right"]) -> None:
    checkpoint = load(tiny(family))
    guard, rows = guard_of(checkpoint), rows_of()
    inputs = padded(rows, checkpoint, side)
    plain, before = logits(checkpoint, inputs), hooks(checkpoint.model)
    with guard.watching(rows) as seen:
        watched = logits(checkpoint, inputs)
        assert hooks(checkpoint.model) == before  # gone as soon as the last layer is read
    assert torch.equal(plain, watched)
    scores = [one.score for one in seen.scores]
    assert scores == pytest.approx(slow_scores(guard, rows), abs=2e-3)
    assert [one.flagged for one in seen.scores] == [score > 0 for score in scores]


def test_some_layers_in_bfloat16() -> None:
    checkpoint = load(tiny("llama", torch.bfloat16))
    guard, rows = guard_of(checkpoint, (1, 2)), rows_of()
    with guard.watching(rows) as seen:
        logits(checkpoint, padded(rows, checkpoint, "left"))
    assert [s.score for s in seen.scores] == pytest.approx(slow_scores(guard, rows), abs=0.05)


class CountHooks(StoppingCriteria):  # type: ignore[misc]
    """Called after every step of a generation."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.counts: list[int] = []

    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.counts.append(sum(a + b for a, b in hooks(self.model).values()))
        return torch.zeros(len(ids), dtype=torch.bool)


@pytest.mark.parametrize("cached", [True, False])
def test_generation_is_watched_in_its_prefill_only(cached: bool) -> None:
    checkpoint = load(tiny("llama"))
    guard, rows = guard_of(checkpoint), rows_of()
    model: Any = checkpoint.model
    inputs = padded(rows, checkpoint, "left")
    del inputs["position_ids"]
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "use_cache": cached}
    plain = model.generate(**inputs, **settings)
    counter = CountHooks(model)
    with guard.watching(rows) as seen:
        watched = model.generate(**inputs, **settings, stopping_criteria=[counter])
    assert torch.equal(plain, watched)
    assert counter.counts == [0] * 5
    assert [s.score for s in seen.scores] == pytest.approx(slow_scores(guard, rows), abs=1e-4)


def test_batch_is_alone() -> None:
    checkpoint = load(tiny("qwen3"))
    guard, rows = guard_of(checkpoint), rows_of()
    alone = []
    for row in rows:
        with guard.watching([row]) as seen:
            logits(checkpoint, {"input_ids": torch.tensor([row.ids])})
        alone += seen.scores
    with guard.watching(rows) as together:
        logits(checkpoint, padded(rows, checkpoint, "left"))
    expected = [one.score for one in alone]
    assert [one.score for one in together.scores] == pytest.approx(expected, abs=1e-5)


def test_no_gradient_is_kept() -> None:
    checkpoint = load(tiny("llama"))
    guard, rows = guard_of(checkpoint), rows_of()[:1]
    model: Any = checkpoint.model
    with guard.watching(rows) as seen:
        out = model(input_ids=torch.tensor([rows[0].ids])).logits
    assert out.requires_grad and len(seen.scores) == 1


def test_nothing_is_left_after_an_exception() -> None:
    checkpoint = load(tiny("llama"))
    guard, rows = guard_of(checkpoint), rows_of()
    before = hooks(checkpoint.model)
    with pytest.raises(ZeroDivisionError), guard.watching(rows):
        assert hooks(checkpoint.model) != before
        raise ZeroDivisionError
    assert hooks(checkpoint.model) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: {"input_ids": i["input_ids"][:2]}, "3 rows were announced"),
        (lambda i: {"input_ids": i["input_ids"].flip(0)}, "does not hold row 0"),
        (lambda i: {"input_ids": i["input_ids"][:, :8]}, "does not hold row 0"),
        (lambda i: {"inputs_embeds": torch.zeros(3, 9, 32)}, "embeddings instead of token ids"),
    ],
)
def test_another_batch_than_announced(change: Any, said: str) -> None:
    checkpoint = load(tiny("llama"))
    guard, rows = guard_of(checkpoint), rows_of()
    before = hooks(checkpoint.model)
    inputs = change(padded(rows, checkpoint, "left"))
    with pytest.raises(InputError, match=said), guard.watching(rows):
        logits(checkpoint, inputs)
    assert hooks(checkpoint.model) == before


def test_nothing_seen() -> None:
    guard = guard_of(load(tiny("llama")))
    with guard.watching(rows_of()) as seen:
        pass
    with pytest.raises(InputError, match="has seen no prefill"):
        _ = seen.scores
    with pytest.raises(InputError, match="at least one row"), guard.watching([]):
        pass
