"""`analyses.refusal`: from a checkpoint and prompts to a refusal finding."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyses.refusal.figures.strips import strips
from analyses.refusal.finding import RefusalFinding, build
from analyses.refusal.material import Material, clusters_of, material_of
from analyses.refusal.measuring import causal, concepts, edits, separation
from analyses.refusal.measuring.agreement import scorer_agreement
from analyses.refusal.measuring.attribution import attribution
from analyses.refusal.measuring.choosing import Choice, choose, first_tokens
from analyses.refusal.measuring.inversion import harm_added_refusals, inversion, inversion_task
from analyses.refusal.measuring.openings import contrast, knows
from analyses.refusal.measuring.speak import Said, Speaker
from analyses.shared.prompts import is_harmful
from analyses.shared.running import (
    Progress,
    Stopwatch,
    data_of,
    exclusive,
    model_facts,
    own_folder,
    stage,
)
from interp.capture.prompt_states import PromptStates, prompt_states
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt
from interp.errors import InputError
from interp.generation import Edit, next_logits
from interp.model.artifacts import origin
from probes.directions.directions import Direction, Directions, difference_in_means
from probes.directions.selection import Selection
from probes.scorers import Judge, RefusalTokens, refusal_log_odds

log = logging.getLogger("mechguard.refusal")


def refusal(
    checkpoint: Checkpoint,
    material: Material | None = None,
    *,
    max_new_tokens: int = 64,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    template: dict[str, Any] | None = None,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> RefusalFinding:
    """Measure harmfulness, refusal, and what the refusal direction does.

    The quantities and their sources are in `docs/refusal.md`.

    Args:
        checkpoint: from `interp.load`, with a chat template.
        material: prompts, from `analyses.refusal_finding.material`; if None, an organism's own, or
            those of `interp.prompt_sets.builtin`.
        max_new_tokens: of an answer.
        layers: candidates for the refusal direction are of these; all if None. Everything else is
            measured at all layers.
        seed: of splits, nulls and bootstraps.
        judge: an external scorer of answers, which then counts.
        template: further arguments of the chat template, such as `enable_thinking`.
        batch_tokens: most tokens in a forward pass.
        workdir: folder in which a stopped run leaves what it had, and goes on from when it is
            called again with the same settings; emptied when a run is done.
        command: kept in the provenance, to reproduce the run.
        progress: called with (stage, done, total).

    Raises:
        InputError: unusable prompts or settings, or a checkpoint that refuses all prompts or none.
        NumericalError: NaN or infinity where a number is reported.
    """
    watch = Stopwatch()
    _require_layers(checkpoint, layers)
    material = material or material_of(checkpoint.name)
    scorer = None if judge is None else judge.name
    settings = f"{max_new_tokens} {layers} {seed} {template} {batch_tokens} {scorer}"
    # The scorer and the template decide what counts as refused, and so the refusal tokens.
    model = f"{checkpoint.fingerprint} {checkpoint.tokenizer_hash} {material.refusals}"
    parts = [part.sha256 for part in material.parts.values()]
    own = own_folder(workdir, "refusal", model, *parts, settings)
    speaker = Speaker(
        checkpoint, material, template or {}, max_new_tokens, batch_tokens, judge, own, progress
    )
    with exclusive(own):
        measured = _measure(speaker, layers, seed)
    provenance = {
        **model_facts(checkpoint),
        "template": template or {},
        "max_new_tokens": max_new_tokens,
        "data": data_of(material.parts),
        **watch.facts(seed, command),
    }
    return build(checkpoint, material, measured, provenance)


@dataclass(frozen=True)
class Heard:
    """All training, validation and test prompts, answered, with their states."""

    train: concepts.Asked
    validation: Said
    test: concepts.Asked


def _measure(speaker: Speaker, layers: Sequence[int] | None, seed: int) -> dict[str, Any]:
    """Every block of the report that comes from the model."""
    heard = listen(speaker)
    tokens, why_not = first_tokens(speaker, heard.train.said)
    difference, separated, shape = _separate(speaker, heard, seed)
    harm, refuse = concepts.concept_directions(heard.train, **_provenance(speaker))
    found: dict[str, Any] = {
        "refusal_tokens": None if tokens is None else tokens.to_dict(),
        "separation": separated,
        "geometry": shape,
        "harmfulness": concepts.harmfulness(heard.train, heard.test, harm, refuse),
        "refusal_separation": concepts.refusal_separation(heard.train, heard.test, refuse, seed),
        "beliefs": concepts.beliefs(heard.train, heard.test),
        "cosine_map": {
            "harmfulness": separation.cosine_map(harm, harm.positions[0]),
            "refusal": separation.cosine_map(refuse, refuse.positions[-1]),
        },
    }
    choice = Choice(None, why_not)
    if tokens is not None:
        choice = choose(speaker, heard.validation, difference, tokens, layers, seed)
    found["choice"] = choice
    found |= _effects(speaker, heard, difference, choice.selection, tokens, seed)
    tasks = [
        inversion_task(speaker, _labelled(heard.test.said, name), name == "harmful")
        for name in ("harmless", "harmful")
    ]
    found["inversion_unplaced"] = sum(task.unplaced for task in tasks)
    found["inversion"] = inversion(speaker, tasks, {"harmfulness": harm, "refusal": refuse})
    found["harm_added"] = harm_added_refusals(
        speaker, harm, _labelled(heard.test.said, "harmless"), heard.test.states
    )
    found["scorers"] = scorer_agreement(
        speaker, heard.test.said, _further_scores(speaker, heard.test.said, tokens)
    )
    found["directions"] = {"difference": difference, "harmfulness": harm, "refusal": refuse}
    return found


def listen(speaker: Speaker) -> Heard:
    """Let the checkpoint answer every prompt, and keep its states of train and test prompts."""
    parts = {
        name: speaker.ask(f"base-{name}", part.prompts)
        for name, part in speaker.material.parts.items()
    }
    refused = parts["train"].refused
    if refused.all() or not refused.any():
        # Weights that are no numbers say something too, and that must not pass for compliance.
        next_logits(speaker.checkpoint, parts["train"].rows, batch_tokens=speaker.batch_tokens)
        what = "all" if refused.all() else "none"
        unclosed = sum(not answer.closed for answer in parts["train"].answers)
        cut = f" ({unclosed} thoughts do not end within --max-new-tokens)" if unclosed else ""
        raise InputError(
            f"{speaker.checkpoint.name} refuses {what} of the {len(refused)} training prompts{cut},"
            " so there is no refusal direction to find; give prompts of both kinds or a checkpoint "
            "that was tuned to refuse. Harmfulness alone is read by `mechguard collect` and "
            "`mechguard probe`."
        )
    return Heard(
        train=_with_states(speaker, parts["train"], "train"),
        validation=parts["validation"],
        test=_with_states(speaker, parts["test"], "test"),
    )


def _with_states(speaker: Speaker, said: Said, name: str) -> concepts.Asked:
    states: dict[str, PromptStates] = {}
    for site in ("resid_pre", "resid_post"):
        folder = None if speaker.workdir is None else speaker.workdir / f"states-{name}-{site}"
        states[site] = prompt_states(
            speaker.checkpoint,
            said.rows,
            site=site,
            batch_tokens=speaker.batch_tokens,
            workdir=folder,
            progress=stage(speaker.progress, "states"),
        )
    return concepts.Asked(said, states["resid_pre"], states["resid_post"])


def _labelled(said: Said, *labels: str) -> list[Prompt]:
    return [prompt for prompt in said.prompts if prompt.label in labels]


def _mask(said: Said, label: str) -> np.ndarray:
    return np.array([prompt.label == label for prompt in said.prompts])


def _further_scores(
    speaker: Speaker, test: Said, tokens: RefusalTokens | None
) -> dict[str, np.ndarray]:
    """Log-odds of refusal of the test prompts by scorers that read no answer, by their names."""
    odds = {}
    if tokens is not None:
        logits = next_logits(speaker.checkpoint, test.rows, batch_tokens=speaker.batch_tokens)
        odds["refusal tokens"] = refusal_log_odds(logits, tokens.ids)
    if knows(speaker, (*speaker.material.refusing, *speaker.material.complying)):
        odds["prefix contrast"] = contrast(speaker, test)
    return odds


def _separate(
    speaker: Speaker, heard: Heard, seed: int
) -> tuple[Directions, list[dict[str, Any]], list[dict[str, Any]]]:
    """Harmful less harmless, at every layer and position, with its nulls and its shape."""
    kept = {}
    for name, asked in (("train", heard.train), ("test", heard.test)):
        chosen = _mask(asked.said, "harmful") | _mask(asked.said, "harmless")
        said = asked.said.where(chosen)
        kept[name] = (asked.states[chosen], _mask(said, "harmful"), said)
    states, positive, said = kept["train"]
    tested, truth, asked_of = kept["test"]
    difference = difference_in_means(states[positive], states[~positive], **_provenance(speaker))
    found = separation.separation(
        difference,
        states,
        positive,
        tested,
        truth,
        (said.rows, asked_of.rows),
        seed,
        clusters_of(asked_of.prompts, truth),
    )
    return difference, found, separation.geometry(difference, states, positive, seed)


def _provenance(speaker: Speaker) -> dict[str, Any]:
    """What a direction keeps of where it comes from."""
    return {
        "origin": origin(speaker.checkpoint),
        "data_sha256": speaker.material.train.sha256,
        "template": speaker.template,
    }


def _effects(
    speaker: Speaker,
    heard: Heard,
    difference: Directions,
    selection: Selection | None,
    tokens: RefusalTokens | None,
    seed: int,
) -> dict[str, Any]:
    """What ablating and adding the selected direction does; without one, the base rates alone."""
    test = heard.test.said
    sets = {"harmful": "harmful", "harmless": "harmless", "over_refusal": "alarming"}
    base = {
        name: test.where(_mask(test, label))
        for name, label in sets.items()
        if _mask(test, label).any()
    }
    prompts = {name: said.prompts for name, said in base.items()}
    if tokens is None or selection is None or selection.chosen is None:
        rates, said = causal.rates(speaker, prompts, base, {}, () if tokens is None else tokens.ids)
        return {"rates": rates, "said": said, "direction": None}
    direction = difference.at(*selection.chosen)
    direction = replace(direction, meta={**direction.meta, "refusal_tokens": tokens.to_dict()})
    made = _edits(speaker, heard, direction)
    rates, said = causal.rates(speaker, prompts, base, made, tokens.ids)
    layer = heard.train.states.layers.index(direction.layer)
    place = heard.train.states.positions.index(direction.position)
    states = heard.train.states.values[:, layer, place].astype(np.float64)
    rows = {name: said[name]["base"].rows for name in ("harmful", "harmless")}
    everywhere = {"ablated": made["ablated"]}
    return {
        "rates": rates,
        "said": said,
        "direction": direction,
        "attribution": attribution(
            speaker, direction, said["harmful"]["base"], said["harmless"]["base"], seed
        ),
        "strips": strips(speaker, {name: said[name]["base"] for name in said}, direction),
        "random_rates": causal.random_rates(
            speaker, direction, states, prompts["harmful"], prompts["harmless"], tokens.ids, seed
        ),
        "dose_response": causal.dose_response(speaker, direction, states, rows, tokens.ids, seed),
        "first_divergence": {
            name: causal.first_divergence(
                speaker, said["harmless"]["base"], said["harmless"][name], made[name], seed
            )
            for name in ("ablated", "ablated_affine")
        },
        "utility": [
            *causal.own_reply_loss(
                speaker,
                said["harmless"]["base"],
                {name: made[name] for name in ("ablated", "ablated_affine")},
                seed,
            ),
            *causal.text_loss(speaker, speaker.material.texts, everywhere, seed),
        ],
    }


def _edits(speaker: Speaker, heard: Heard, direction: Direction) -> dict[str, Edit]:
    """The edits of `causal.EDITS`, of the selected direction."""
    checkpoint = speaker.checkpoint
    train = heard.train
    harmless = np.array([not is_harmful(prompt) for prompt in train.said.prompts])
    accepted = train.states[harmless & ~train.said.refused]
    vector, layer = direction.vector, direction.layer
    return {
        "ablated": edits.ablated(checkpoint, vector),
        "ablated_affine": edits.ablated_affine(checkpoint, direction, accepted),
        "added": edits.added(checkpoint, vector, layer, edits.last_token),
        "added_all": edits.added(checkpoint, vector, layer, None),
    }


def _require_layers(checkpoint: Checkpoint, layers: Sequence[int] | None) -> None:
    count = checkpoint.anatomy.n_layers
    wrong = [layer for layer in layers or () if not 0 <= layer < count]
    if wrong or (layers is not None and not layers):
        raise InputError(
            f"layers {', '.join(map(str, wrong)) or 'are empty'}: {checkpoint.name} has layers 0 "
            f"to {count - 1}."
        )
