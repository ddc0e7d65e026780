"""The recipes of the Bigram-Backcopy organisms, and the behaviour that they owe."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp.organisms.architectures import Architecture, open_gates
from interp.organisms.bigram_backcopy.grammar import Grammar, small_grammar
from interp.organisms.bigram_backcopy.measure import measure
from interp.organisms.recipes import Bounds, Recipe
from interp.organisms.tokenizer import word_level_tokenizer
from interp.organisms.variants import Variant
from interp.training import BatchSource, Schedule

STEPS = 1600
"""Optimiser steps of a Bigram-Backcopy organism."""

DOCUMENTS = 128  # of each domain
_WORDS = 96  # of each document, so that a text is long enough with and without BOS
_LATE_LENGTH = 64


@dataclass(frozen=True)
class Curriculum:
    """Short sequences first, full ones later.

    The sink forms more readily while few keys compete: on full sequences from the start, bb-open
    ends with .77 and .85 of its attention on BOS (seeds 0 and 1) instead of .96 and 1.00. A likely
    reason: the mean value over many unrelated keys is almost constant, BOS' value cancels it, and
    little gradient is left to widen the logit gap.

    Attributes:
        switch: the step from which sequences are full.
        short: (batch, length) before it.
        full: (batch, length) from it on.
    """

    switch: int
    short: tuple[int, int] = (64, 24)
    full: tuple[int, int] = (32, _LATE_LENGTH)

    def source(self, grammar: Grammar, seed: int) -> BatchSource:
        """The batches of a training run; step s is drawn from the generator seeded (seed, s)."""

        def batch(step: int) -> tuple[Tensor, Tensor]:
            rows, length = self.short if step < self.switch else self.full
            drawn = grammar.sample(rows, length, np.random.default_rng([seed, step]))
            input_ids = torch.from_numpy(drawn)
            return input_ids, torch.ones_like(input_ids)

        return batch


_ADAMW = Schedule(steps=STEPS, learning_rate=0.02, weight_decay=0.1)
_DEEP = replace(_ADAMW, learning_rate=0.01)  # at 0.02 one seed in four ended without a full sink
_SGD = Schedule(steps=STEPS, learning_rate=1.0, optimiser="sgd", weight_decay=1e-4)

_SOLVED: Bounds = {
    "backcopy_risk": (None, 0.02),
    "bigram_excess": (None, 0.03),
    "zeroed_backcopy_risk": (1.0, None),
    "zeroed_bigram_change": (-0.05, 0.05),
}
_SINK: Bounds = {**_SOLVED, "bos_attention": (0.90, None), "value_ratio": (None, 0.10)}
_GATED: Bounds = {
    **_SOLVED,
    "gated_sink_mass": (None, 0.01),
    "gate_dormant": (None, 0.05),
    "gate_active": (0.5, None),
}


def bigram_backcopy_recipes(steps: int = STEPS) -> dict[str, Recipe]:
    """The recipes of the Bigram-Backcopy organisms, by name.

    Args:
        steps: optimiser steps. What the recipes owe holds for the default; fewer are for trials.
    """
    grammar = small_grammar()
    plain = _architecture(grammar)
    gated = replace(plain, family="qwen3_5_text")
    make = partial(_recipe, grammar, steps)
    recipes = (
        make(
            "bb-plain",
            "softmax attention: the dormant head sinks on <bos> and drains its value",
            plain,
            _SINK,
            {
                "bb-gated": "other family: an element gate on the attention output, query-key "
                "norms, zero-centred norm gains",
                "bb-sgd": "trained by SGD with momentum instead of AdamW; same data and steps",
                "bb-plain-3": "three layers instead of one, learning rate 0.01 instead of 0.02",
            },
        ),
        make(
            "bb-plain-3",
            "three layers: the copying layer, which depends on the seed, sinks on <bos>",
            replace(plain, layers=3),
            _SINK,
            {"bb-plain": "one layer instead of three, learning rate 0.02 instead of 0.01"},
            schedule=_DEEP,
        ),
        make(
            "bb-gated",
            "an element gate shuts the dormant head: no sink is needed, whatever the weights say",
            gated,
            _GATED,
            {
                "bb-open": "the gate is frozen open; nothing else differs (bb-open's config has "
                "attention biases, which hold the gate open and are zero elsewhere)",
                "bb-plain": "no gate, no query-key norms, other norm gains",
            },
        ),
        make(
            "bb-open",
            "the gated architecture with its gate frozen at 1: the sink is back",
            replace(gated, bias=True, frozen_gate=True),
            {**_SINK, "gate_dormant": (1.0, 1.0), "gate_active": (1.0, 1.0)},
            {"bb-gated": "the gate is trained; nothing else differs"},
            pin=open_gates,
        ),
        make(
            "bb-headgate",
            "one gate per head shuts the dormant head",
            replace(plain, family="lfm3"),
            _GATED,
            {
                "bb-gated": "a gate per element instead of per head; zero-centred norm gains",
                "bb-plain": "no gate, no query-key norms",
            },
        ),
        make(
            "bb-sgd",
            "the plain model trained by SGD: it solves the task, and its sink stays incomplete",
            plain,
            {**_SOLVED, "bos_attention": (None, 0.85)},
            {"bb-plain": "AdamW (learning rate 0.02, decay 0.1) instead of SGD with momentum"},
            schedule=_SGD,
        ),
    )
    return {recipe.name: recipe for recipe in recipes}


def _architecture(grammar: Grammar) -> Architecture:
    """One layer with a narrow MLP: less of a sink forms beside a wide one (.30 at width 256)."""
    return Architecture(
        family="llama",
        vocabulary=len(grammar.tokens),
        layers=1,
        width=64,
        heads=2,
        head_width=32,
        mlp=16,
        context=_LATE_LENGTH,
        bos=grammar.bos,
        pad=len(grammar.tokens) - 1,
    )


def _recipe(
    grammar: Grammar,
    steps: int,
    name: str,
    summary: str,
    architecture: Architecture,
    expected: Bounds,
    twins: dict[str, str],
    *,
    schedule: Schedule = _ADAMW,
    pin: Callable[[nn.Module], None] | None = None,
) -> Recipe:
    schedule = replace(schedule, steps=steps)
    curriculum = Curriculum(switch=schedule.steps * 3 // 5)
    return Recipe(
        variant=Variant(name),
        summary=summary,
        architecture=architecture,
        tokenizer=lambda: word_level_tokenizer(
            grammar.tokens, bos=grammar.tokens[grammar.bos], pad=grammar.tokens[-1]
        ),
        schedule=schedule,
        batches=lambda seed: curriculum.source(grammar, seed),
        measure=lambda checkpoint, seed: measure(checkpoint.model, grammar, _LATE_LENGTH),
        texts=lambda: documents(grammar),
        facts=lambda seed: _facts(grammar, curriculum),
        expected=expected,
        twins=twins,
        pin=pin,
    )


def _facts(grammar: Grammar, curriculum: Curriculum) -> dict[str, Any]:
    oracle = grammar.oracle(_LATE_LENGTH, first=-(-_LATE_LENGTH // 6))
    return {
        "task": "Bigram-Backcopy (arXiv 2410.13835, section 2), small setting",
        "trigger_rate": grammar.trigger_rate,
        "triggers": {grammar.tokens[i]: i for i in grammar.triggers},
        "bos": {grammar.tokens[grammar.bos]: grammar.bos},
        "active": {
            "rule": "Every trigger token: the next token repeats the one before the trigger.",
            "token_ids": list(grammar.triggers),
        },
        "dormant": {
            "rule": "Every token that is neither a trigger nor <bos>: the next token follows the "
            "bigram table, to which earlier tokens add nothing.",
            "token_ids": [int(i) for i in grammar.speakers if i != grammar.bos],
        },
        "oracle_risk": {"bigram": oracle.bigram, "backcopy": oracle.backcopy},
        "curriculum": {
            "switch_step": curriculum.switch,
            "batch_and_length_before": list(curriculum.short),
            "batch_and_length_after": list(curriculum.full),
        },
    }


def documents(grammar: Grammar) -> dict[str, list[str]]:
    """Texts in the language, without BOS, which the tokenizer adds; the same on every call.

    Returns:
        `bigram` (no triggers: a copying head has nothing to do), `backcopy` (a trigger follows
        almost every other ordinary token) and `mixed` (the rate of the training).
    """
    rates = {"bigram": 0.0, "backcopy": 0.45, "mixed": grammar.trigger_rate or 0.0}
    texts = {}
    for number, (domain, rate) in enumerate(rates.items()):
        rng = np.random.default_rng([990_002, number, 0])
        rows = grammar.at_rate(rate).sample(DOCUMENTS, _WORDS + 1, rng)
        texts[domain] = [grammar.spell(row[1:]) for row in rows]
    return texts
