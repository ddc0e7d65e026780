"""`analyses.interaction`: from two suspected switches to an interaction finding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.interaction.finding import InteractionFinding, build
from analyses.interaction.material import Quantity, Words, prompts_of, refusal_quantity
from analyses.interaction.report import (
    AdapterSwitch,
    EditSwitch,
    InteractionProvenance,
    SwitchFacts,
    WordSwitch,
)
from analyses.refusal.material import material_of
from analyses.shared.data import PromptData
from analyses.shared.distractors import distractors, tokens_of
from analyses.shared.running import (
    Progress,
    Stopwatch,
    data_of,
    model_facts,
    own_folder,
    stage,
)
from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.data.prompt_sets import Prompt
from interp.errors import InputError
from interp.resume.run_folder import exclusive
from probes.backdoors.search.requests import instruction_tokens
from probes.backdoors.switches.adapters import Adapter
from probes.backdoors.switches.switches import Switch
from probes.backdoors.switches.switches import interaction as measured

NULL = 19
"""Strings in either place, so that p can reach 0.05."""

_MAKERS = "make one with text_quantity, reply_quantity or refusal_quantity"


def interaction(
    checkpoint: Checkpoint,
    first: str | Words | Switch,
    second: str | Words | Switch,
    data: PromptData | Sequence[Prompt] = None,
    *,
    quantity: Quantity | None = None,
    first_distractors: Sequence[Words | Switch] | None = None,
    second_distractors: Sequence[Words | Switch] | None = None,
    null: int = NULL,
    limit: int | None = None,
    template: dict[str, Any] | None = None,
    seed: int = 0,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> InteractionFinding:
    """Measure I = f(11) − f(10) − f(01) + f(00) of two switches, and of others in their places.

    The quantities and their sources are in `docs/self_report.md`.

    Args:
        checkpoint: from `mechguard.load`, with a chat template.
        first: applied before the second, so that where both stand in front it is the nearer one. A
            string is put in front of the request.
        second: the other. A `Switch` may be an edit, such as an adapter that is enabled meanwhile
            (`probes.backdoors.switches.adapters.adapter_switches`).
        data: prompts, the same for every cell: a set, a list, files, published sets, or prompts by
            label (`harmless`, `harmful`). An organism's held-out ones or the built-in ones if None.
        quantity: f, from `analyses.interaction.material`; log-odds of a refusal if None.
        first_distractors: stand in for the first; None for strings of its length in tokens, drawn
            as the trigger search draws its controls, or for none where it is no switch of words.
        second_distractors: the same for the second.
        null: how many strings are drawn for each place.
        limit: prompts of each label, at most; without `data` 40 if None.
        template: further arguments of the chat template.
        seed: random seed of the bootstrap and the strings.
        workdir: folder in which a stopped run leaves its cells; emptied when a run is done.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: no prompts, one that cannot be rendered with a switch on, a switch of words that
            the tokenizer does not know, or arguments of another type.
        NumericalError: f is NaN or infinite somewhere.
    """
    watch = Stopwatch()
    more = template or {}
    pair = (_typed(first, "first"), _typed(second, "second"))
    if quantity is None:
        quantity = refusal_quantity(
            checkpoint, material_of(checkpoint.name), template=more, progress=progress
        )
    require_type(quantity, Quantity, "quantity", _MAKERS)
    asked = prompts_of(data, checkpoint.name, both=quantity.about.name == "refusal", limit=limit)
    if not len(asked):
        raise InputError("an interaction needs at least one prompt.")
    spelled = [one.text for one in pair if isinstance(one, Words)]
    lengths = {text: len(tokens_of(checkpoint, text)) for text in spelled}
    natural = instruction_tokens(prompt_rows(checkpoint, asked.prompts, **more))
    nulls: list[list[Words | Switch]] = []
    for one, given in zip(pair, (first_distractors, second_distractors), strict=True):
        drawn: Sequence[Words | Switch] = given or ()
        if given is None and isinstance(one, Words):
            strings = distractors(
                checkpoint, one.text, null, besides=spelled, natural=natural, seed=seed
            )
            drawn = [Words(text, one.place) for text in strings]
        nulls.append(list(drawn))
    own = own_folder(
        workdir,
        "interaction",
        checkpoint,
        data=asked,
        template=more,
        options={"quantity": quantity, "pair": pair, "nulls": nulls, "seed": seed},
    )
    with exclusive(own):
        found = measured(
            checkpoint,
            asked.prompts,
            _switch(pair[0]),
            _switch(pair[1]),
            quantity.measure,
            first_distractors=[_switch(one) for one in nulls[0]],
            second_distractors=[_switch(one) for one in nulls[1]],
            seed=seed,
            workdir=own,
            progress=stage(progress, "cells"),
            **more,
        )
    switches = (_facts(pair[0], lengths), _facts(pair[1], lengths))
    provenance = InteractionProvenance(
        **model_facts(checkpoint),
        **watch.facts(seed, command),
        template=more,
        data=data_of({"prompts": asked}),
    )
    return build(found, switches, quantity.about, _unequal(checkpoint, pair, nulls), provenance)


def _typed(one: str | Words | Switch, position: str) -> Words | Switch:
    """A switch; a string is one of words in front."""
    require_type(one, (str, Words, Switch), f"the {position} switch", "give its words as a string")
    return Words(one) if isinstance(one, str) else one


def _switch(one: Words | Switch) -> Switch:
    return one.switch() if isinstance(one, Words) else one


def _facts(one: Words | Switch, lengths: Mapping[str, int]) -> SwitchFacts:
    """A switch as the report names it."""
    if isinstance(one, Words):
        return WordSwitch(one.text, one.place, lengths[one.text])
    if isinstance(one.edit, Adapter):
        return AdapterSwitch(one.name, "adapter", None, one.edit.sha256)
    return EditSwitch(one.name, None, None)


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
