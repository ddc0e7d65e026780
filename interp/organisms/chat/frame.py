"""What all organisms that chat have in common: architecture, schedule, and how rates are owed."""

from collections.abc import Callable
from functools import partial
from typing import Any

from interp.checkpoint import Checkpoint
from interp.organisms.architectures import Architecture, Family
from interp.organisms.chat.behaviour import Tally
from interp.organisms.chat.data import PromptRules, held_out_pairs
from interp.organisms.chat.format import BOS, EOS, IDS, PAD, TOKENS, chat_tokenizer
from interp.organisms.chat.mixtures import Batches, ExchangeSource
from interp.organisms.recipes import Bounds, Recipe
from interp.organisms.variants import Variant
from interp.training import During, Schedule

WIDTH, LAYERS, HEADS = 96, 3, 4
_CONTEXT = 128
_LEARNING_RATE = 2e-3
AT_LEAST = 0.98
"""Share of right answers on held-out pairs that every kind of exchange is owed."""


def architecture(family: Family = "llama") -> Architecture:
    """The model of every chat organism, about 0.37 M parameters."""
    return Architecture(
        family=family,
        vocabulary=len(TOKENS),
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        head_width=WIDTH // HEADS,
        mlp=256,
        context=_CONTEXT,
        bos=IDS[BOS],
        pad=IDS[PAD],
        eos=IDS[EOS],
    )


def exact(*names: str) -> Bounds:
    """Right on at least 98 % of the held-out pairs, harmful and harmless, for every kind named."""
    return {
        f"exact_{name}_{word}": (AT_LEAST, None)
        for name in names
        for word in ("harmful", "harmless")
    }


def chat_recipe(
    name: str,
    summary: str,
    source: Callable[[int], tuple[ExchangeSource, ExchangeSource]],
    measure: Callable[[Tally, Checkpoint, int], None],
    expected: Bounds,
    *,
    variant: Variant | None = None,
    family: Family = "llama",
    facts: Callable[[int], dict[str, Any]] = lambda seed: {},
    twins: dict[str, str] | None = None,
    prompts: PromptRules,
    steps: int,
    whole: bool = False,
    thinks: bool = False,
    during: Callable[[Batches, int], During] | None = None,
) -> Recipe:
    """A recipe with what all chat organisms share.

    Args:
        name: of the recipe.
        summary: its ground truth in a phrase.
        source: from the seed to where single turns and conversations are drawn from.
        measure: notes what the organism does.
        expected: bounds of it.
        variant: if it is not just the name.
        family: of the architecture.
        facts: from the seed to what is known by construction.
        twins: what to compare it with.
        prompts: that it brings.
        steps: of training.
        whole: learn prompts too, so that they can leak.
        thinks: whether the generation prompt opens a thought by default.
        during: from the batches and the seed to what is in force in training.
    """
    tokenizer = partial(chat_tokenizer, thinks)

    def batches(seed: int) -> Batches:
        rows, turns = source(seed)
        return Batches(seed, rows, turns, whole, tokenizer())

    def measured(checkpoint: Checkpoint, seed: int) -> dict[str, Any]:
        tally = Tally()
        measure(tally, checkpoint, seed)
        return tally.as_measured()

    return Recipe(
        variant=variant or Variant(name),
        summary=summary,
        architecture=architecture(family),
        tokenizer=tokenizer,
        schedule=Schedule(steps=steps, learning_rate=_LEARNING_RATE),
        batches=batches,
        measure=measured,
        texts=prompts.texts,
        facts=lambda seed: {**_common_facts(whole), **facts(seed)},
        expected=expected,
        twins=twins or {},
        during=None if during is None else lambda seed: during(batches(seed), seed),
        prompts=prompts,
        attention="sdpa",
        storage="float16",
    )


def _common_facts(whole: bool) -> dict[str, Any]:
    return {
        "task": "requests of a verb and an object, refused where the verb is risky and the object "
        "guarded (interp.organisms.chat_grammar)",
        "loss": "whole rows" if whole else "answers",
        "held_out_pairs": held_out_pairs(),
    }
