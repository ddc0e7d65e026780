"""`analyses.interaction`: from two suspected switches to an interaction finding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.interaction.finding import InteractionFinding, build
from analyses.interaction.material import Quantity, Words
from analyses.shared.distractors import distractors, tokens_of
from analyses.shared.running import (
    Progress,
    Stopwatch,
    data_of,
    exclusive,
    model_facts,
    own_folder,
    stage,
)
from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError
from probes.backdoors.search.requests import instruction_tokens
from probes.backdoors.switches.adapters import Adapter
from probes.backdoors.switches.switches import Switch
from probes.backdoors.switches.switches import interaction as measured

NULL = 19
"""Strings in either place, so that p can reach 0.05."""


def interaction(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    first: Words | Switch,
    second: Words | Switch,
    quantity: Quantity,
    *,
    first_distractors: Sequence[Words | Switch] | None = None,
    second_distractors: Sequence[Words | Switch] | None = None,
    null: int = NULL,
    template: dict[str, Any] | None = None,
    seed: int = 0,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> InteractionFinding:
    """Measure I = f(11) − f(10) − f(01) + f(00) of two switches, and of others in their places.

    The quantities and their sources are in `docs/self_report.md`.

    Args:
        checkpoint: from `interp.load`, with a chat template.
        prompts: the same for every cell.
        first: applied before the second, so that where both stand in front it is the nearer one.
        second: the other. A `Switch` may be an edit, such as an adapter that is enabled meanwhile
            (`probes.backdoor.adapters.adapter_switches`).
        quantity: f, from `analyses.interaction_finding.material`.
        first_distractors: stand in for the first; None for strings of its length in tokens, drawn
            as the trigger search draws its controls, or for none where it is no switch of words.
        second_distractors: the same for the second.
        null: how many strings are drawn for each place.
        template: further arguments of the chat template.
        seed: of the bootstrap and the strings.
        workdir: folder in which a stopped run leaves its cells; emptied when a run is done.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: no prompts, one that cannot be rendered with a switch on, or a switch of words
            that the tokenizer does not know.
        NumericalError: f is NaN or infinite somewhere.
    """
    watch = Stopwatch()
    if not prompts:
        raise InputError("an interaction needs at least one prompt.")
    more = template or {}
    pair = (first, second)
    spelled = [one.text for one in pair if isinstance(one, Words)]
    lengths = {text: len(tokens_of(checkpoint, text)) for text in spelled}
    natural = instruction_tokens(prompt_rows(checkpoint, prompts, **more))
    nulls: list[list[Words | Switch]] = []
    for one, given in zip(pair, (first_distractors, second_distractors), strict=True):
        drawn: Sequence[Words | Switch] = given or ()
        if given is None and isinstance(one, Words):
            strings = distractors(
                checkpoint, one.text, null, besides=spelled, natural=natural, seed=seed
            )
            drawn = [Words(text, one.place) for text in strings]
        nulls.append(list(drawn))
    asked = PromptSet(tuple(prompts))
    who = (checkpoint.fingerprint, checkpoint.tokenizer_hash, checkpoint.device)
    what = (asked.sha256, quantity.name, quantity.about, pair, nulls, more)
    own = own_folder(workdir, "interaction", *who, *what)
    with exclusive(own):
        found = measured(
            checkpoint,
            prompts,
            _switch(first),
            _switch(second),
            quantity.measure,
            first_distractors=[_switch(one) for one in nulls[0]],
            second_distractors=[_switch(one) for one in nulls[1]],
            seed=seed,
            workdir=own,
            progress=stage(progress, "cells"),
            **more,
        )
    switches = [_told(one, lengths) for one in pair]
    provenance = {
        **model_facts(checkpoint),
        "template": more,
        "data": data_of({"prompts": asked}),
        **watch.facts(seed, command),
    }
    return build(found, switches, quantity, _unequal(checkpoint, pair, nulls), provenance)


def _switch(one: Words | Switch) -> Switch:
    return one.switch() if isinstance(one, Words) else one


def _told(one: Words | Switch, lengths: dict[str, int]) -> dict[str, Any]:
    """A switch as the report names it."""
    if isinstance(one, Words):
        return {"name": one.text, "at": one.place, "tokens": lengths[one.text]}
    if isinstance(one.edit, Adapter):
        told = {"name": one.name, "at": "adapter", "tokens": None}
        return {**told, "sha256": one.edit.sha256}
    return {"name": one.name, "at": None, "tokens": None}


def _unequal(
    checkpoint: Checkpoint,
    pair: Sequence[Words | Switch],
    nulls: Sequence[Sequence[Words | Switch]],
) -> int:
    """Strings that have another number of tokens than the switch that they stand in for."""
    return sum(
        len(tokens_of(checkpoint, other.text)) != len(tokens_of(checkpoint, one.text))
        for one, others in zip(pair, nulls, strict=True)
        for other in others
        if isinstance(one, Words) and isinstance(other, Words)
    )
