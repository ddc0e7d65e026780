"""`analyses.refusal`: from a checkpoint and prompts to a refusal finding."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyses.refusal.figures.strips import strips
from analyses.refusal.finding import DirectionEffects, RefusalFinding, RefusalMeasurements, build
from analyses.refusal.material import RefusalPrompts, clusters_of, material_of
from analyses.refusal.measuring import causal, concepts, edits, separation
from analyses.refusal.measuring.agreement import scorer_agreement
from analyses.refusal.measuring.attribution import attribution
from analyses.refusal.measuring.choosing import Choice, choose, first_tokens
from analyses.refusal.measuring.inversion import harm_added_refusals, inversion, inversion_task
from analyses.refusal.measuring.openings import contrast, knows
from analyses.refusal.measuring.speak import Responder, Responses
from analyses.refusal.report import CosineMaps, GeometryRow, RefusalProvenance, SeparationRow
from analyses.refusal.report_effects import AnswerDivergence, EditRates, FirstDivergence, RatesBySet
from analyses.shared.data import PromptData
from analyses.shared.prompts import is_harmful
from analyses.shared.reports import NotMeasured
from analyses.shared.running import (
    Progress,
    Stopwatch,
    data_of,
    model_facts,
    own_folder,
    stage,
)
from interp.capture.prompt_states import PromptStates, prompt_states
from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.data.prompt_sets import Prompt
from interp.errors import InputError
from interp.generation import Edit, next_logits
from interp.model.origin import origin
from interp.resume.run_folder import exclusive
from probes.directions.directions import Direction, Directions, difference_in_means
from probes.directions.selection import Selection
from probes.scorers import Judge, RefusalTokens, refusal_log_odds

log = logging.getLogger("mechguard.refusal")


def refusal(
    checkpoint: Checkpoint,
    data: RefusalPrompts | PromptData = None,
    *,
    scorer: Judge | None = None,
    max_new_tokens: int = 64,
    layers: Sequence[int] | None = None,
    template: dict[str, Any] | None = None,
    batch_tokens: int = 8192,
    seed: int = 0,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> RefusalFinding:
    """Measure harmfulness, refusal, and what the refusal direction does.

    The quantities and their sources are in `docs/refusal.md`.

    Args:
        checkpoint: from `mechguard.load`, with a chat template.
        data: prompts with the labels `harmful`, `harmless` and `alarming` (see
            `analyses.shared.data`), or already split, from `analyses.refusal.material`; None for an
            organism's own or the built-in ones.
        scorer: an external scorer of answers, which then counts.
        max_new_tokens: of an answer.
        layers: candidates for the refusal direction are of these; all if None. Everything else is
            measured at all layers.
        template: further arguments of the chat template, such as `enable_thinking`.
        batch_tokens: most tokens in a forward pass.
        seed: of splits, nulls and bootstraps.
        workdir: folder in which a stopped run leaves what it had, and goes on from when it is
            called again with the same settings; emptied when a run is done.
        command: kept in the provenance, to reproduce the run.
        progress: called with (stage, done, total).

    Raises:
        InputError: unusable prompts or settings, or a checkpoint that refuses all prompts or none.
        NumericalError: NaN or infinity where a number is reported.
    """
    watch = Stopwatch()
    require_type(checkpoint, Checkpoint, "checkpoint", "load one with mechguard.load(source)")
    _require_layers(checkpoint, layers)
    if isinstance(data, RefusalPrompts):
        material = data
    else:
        material = material_of(checkpoint.name, data, seed=seed)
    own = own_folder(
        workdir,
        "refusal",
        checkpoint,
        data=material,
        template=template,
        # It decides what counts as refused, and so the refusal tokens.
        scorer=scorer,
        options={
            "max_new_tokens": max_new_tokens,
            "layers": layers,
            "batch_tokens": batch_tokens,
            "seed": seed,
        },
    )
    responder = Responder(
        checkpoint, material, template or {}, max_new_tokens, batch_tokens, scorer, own, progress
    )
    with exclusive(own):
        measured = _measure(responder, layers, seed)
    provenance = RefusalProvenance(
        template=template or {},
        max_new_tokens=max_new_tokens,
        data=data_of(material.parts),
        **model_facts(checkpoint),
        **watch.facts(seed, command),
    )
    return build(material, measured, provenance)


@dataclass(frozen=True)
class Answered:
    """All training, validation and test prompts, answered, with their states."""

    train: concepts.Asked
    validation: Responses
    test: concepts.Asked


def _measure(responder: Responder, layers: Sequence[int] | None, seed: int) -> RefusalMeasurements:
    """Every block of the report that comes from the model."""
    answered = collect(responder)
    train, test = answered.train, answered.test
    tokens, why_not = first_tokens(responder, train.responses)
    difference, separated, shape = _separate(responder, answered, seed)
    harm, refuse = concepts.concept_directions(train, **_provenance(responder))
    choice = Choice(None, why_not)
    if tokens is not None:
        choice = choose(responder, answered.validation, difference, tokens, layers, seed)
    tasks = [
        inversion_task(responder, _labelled(test.responses, name), name == "harmful")
        for name in ("harmless", "harmful")
    ]
    return RefusalMeasurements(
        choice=choice,
        tokens=tokens,
        directions={"difference": difference, "harmfulness": harm, "refusal": refuse},
        effects=_effects(responder, answered, difference, choice.selection, tokens, seed),
        separation=separated,
        geometry=shape,
        harmfulness=concepts.harmfulness(train, test, harm, refuse),
        refusal_separation=concepts.refusal_separation(train, test, refuse, seed),
        beliefs=concepts.beliefs(train, test),
        cosine_map=CosineMaps(
            harmfulness=separation.cosine_map(harm, harm.positions[0]),
            refusal=separation.cosine_map(refuse, refuse.positions[-1]),
        ),
        inversion=inversion(responder, tasks, {"harmfulness": harm, "refusal": refuse}),
        inversion_unplaced=sum(task.unplaced for task in tasks),
        harm_added=harm_added_refusals(
            responder, harm, _labelled(test.responses, "harmless"), test.states
        ),
        scorers=scorer_agreement(
            responder, test.responses, _further_scores(responder, test.responses, tokens)
        ),
    )


def collect(responder: Responder) -> Answered:
    """Let the checkpoint answer every prompt, and keep its states of train and test prompts."""
    parts = {
        name: responder.respond(f"base-{name}", part.prompts)
        for name, part in responder.material.parts.items()
    }
    refused = parts["train"].refused
    if refused.all() or not refused.any():
        # Weights that are no numbers say something too, and that must not pass for compliance.
        next_logits(responder.checkpoint, parts["train"].rows, batch_tokens=responder.batch_tokens)
        what = "all" if refused.all() else "none"
        unclosed = sum(not answer.closed for answer in parts["train"].answers)
        cut = f" ({unclosed} thoughts do not end within --max-new-tokens)" if unclosed else ""
        raise InputError(
            f"{responder.checkpoint.name} refuses {what} of the {len(refused)} training prompts"
            f"{cut}, so there is no refusal direction to find; give prompts of both kinds or a "
            "checkpoint that was tuned to refuse. Harmfulness alone is read by `mechguard collect` "
            "and `mechguard probe`."
        )
    return Answered(
        train=_with_states(responder, parts["train"], "train"),
        validation=parts["validation"],
        test=_with_states(responder, parts["test"], "test"),
    )


def _with_states(responder: Responder, responses: Responses, name: str) -> concepts.Asked:
    states: dict[str, PromptStates] = {}
    for site in ("resid_pre", "resid_post"):
        folder = None if responder.workdir is None else responder.workdir / f"states-{name}-{site}"
        states[site] = prompt_states(
            responder.checkpoint,
            responses.rows,
            site=site,
            batch_tokens=responder.batch_tokens,
            workdir=folder,
            progress=stage(responder.progress, "states"),
        )
    return concepts.Asked(responses, states["resid_pre"], states["resid_post"])


def _labelled(responses: Responses, *labels: str) -> list[Prompt]:
    return [prompt for prompt in responses.prompts if prompt.label in labels]


def _mask(responses: Responses, label: str) -> np.ndarray:
    return np.array([prompt.label == label for prompt in responses.prompts])


def _further_scores(
    responder: Responder, test: Responses, tokens: RefusalTokens | None
) -> dict[str, np.ndarray]:
    """Log-odds of refusal of the test prompts by scorers that read no answer, by their names."""
    odds = {}
    if tokens is not None:
        logits = next_logits(responder.checkpoint, test.rows, batch_tokens=responder.batch_tokens)
        odds["refusal tokens"] = refusal_log_odds(logits, tokens.ids)
    if knows(responder, (*responder.material.refusing, *responder.material.complying)):
        odds["prefix contrast"] = contrast(responder, test)
    return odds


def _separate(
    responder: Responder, answered: Answered, seed: int
) -> tuple[Directions, tuple[SeparationRow, ...], tuple[GeometryRow, ...]]:
    """Harmful less harmless, at every layer and position, with its nulls and its shape."""
    kept = {}
    for name, asked in (("train", answered.train), ("test", answered.test)):
        chosen = _mask(asked.responses, "harmful") | _mask(asked.responses, "harmless")
        responses = asked.responses.where(chosen)
        kept[name] = (asked.states[chosen], _mask(responses, "harmful"), responses)
    states, positive, train = kept["train"]
    tested, truth, test = kept["test"]
    difference = difference_in_means(states[positive], states[~positive], **_provenance(responder))
    found = separation.separation(
        difference,
        states,
        positive,
        tested,
        truth,
        (train.rows, test.rows),
        seed,
        clusters_of(test.prompts, truth),
    )
    return difference, found, separation.geometry(difference, states, positive, seed)


def _provenance(responder: Responder) -> dict[str, Any]:
    """What a direction keeps of where it comes from."""
    return {
        "origin": origin(responder.checkpoint),
        "data_sha256": responder.material.train.sha256,
        "template": responder.template,
    }


def _effects(
    responder: Responder,
    answered: Answered,
    difference: Directions,
    selection: Selection | None,
    tokens: RefusalTokens | None,
    seed: int,
) -> DirectionEffects:
    """What ablating and adding the selected direction does; without one, the base rates alone."""
    base = _base(answered.test.responses)
    if tokens is None or selection is None or selection.chosen is None:
        responses = causal.answered(responder, base, {})
        ids = () if tokens is None else tokens.ids
        return DirectionEffects(responses, _rates(responses, ids))
    direction = difference.at(*selection.chosen)
    direction = replace(direction, meta={**direction.meta, "refusal_tokens": tokens.to_dict()})
    made = _edits(responder, answered, direction)
    responses = causal.answered(responder, base, made)
    layer = answered.train.states.layers.index(direction.layer)
    place = answered.train.states.positions.index(direction.position)
    states = answered.train.states.values[:, layer, place].astype(np.float64)
    harmful, harmless = base["harmful"], base["harmless"]
    sides = {"harmful": harmful.rows, "harmless": harmless.rows}
    ablations = {name: made[name] for name in ("ablated", "ablated_affine")}

    def diverges(name: str) -> AnswerDivergence:
        edited = responses["harmless"][name]
        return causal.first_divergence(responder, harmless, edited, made[name], seed)

    return DirectionEffects(
        responses=responses,
        rates=_rates(responses, tokens.ids),
        direction=direction,
        attribution=attribution(responder, direction, harmful, harmless, seed),
        strips=strips(responder, base, direction),
        random_rates=causal.random_rates(
            responder, direction, states, harmful.prompts, harmless.prompts, tokens.ids, seed
        ),
        dose_response=causal.dose_response(responder, direction, states, sides, tokens.ids, seed),
        first_divergence=FirstDivergence(diverges("ablated"), diverges("ablated_affine")),
        utility=(
            *causal.own_reply_loss(responder, harmless, ablations, seed),
            # Benign text has no last prompt token, so only the ablation everywhere applies to it.
            *causal.text_loss(
                responder, responder.material.texts, {"ablated": made["ablated"]}, seed
            ),
        ),
    )


def _base(test: Responses) -> dict[str, Responses]:
    """The unedited answers by set, of the sets that have prompts."""
    sets = {"harmful": "harmful", "harmless": "harmless", "over_refusal": "alarming"}
    return {
        name: test.where(_mask(test, label))
        for name, label in sets.items()
        if _mask(test, label).any()
    }


def _rates(
    responses: Mapping[str, Mapping[str, Responses]], refusal_ids: Sequence[int]
) -> RatesBySet:
    over_refusal: EditRates | NotMeasured = NotMeasured("there are no alarming prompts")
    if "over_refusal" in responses:
        over_refusal = causal.rates(responses["over_refusal"], refusal_ids)
    return RatesBySet(
        harmful=causal.rates(responses["harmful"], refusal_ids),
        harmless=causal.rates(responses["harmless"], refusal_ids),
        over_refusal=over_refusal,
    )


def _edits(responder: Responder, answered: Answered, direction: Direction) -> dict[str, Edit]:
    """The edits of `causal.EDITS`, of the selected direction."""
    checkpoint = responder.checkpoint
    train = answered.train
    harmless = np.array([not is_harmful(prompt) for prompt in train.responses.prompts])
    accepted = train.states[harmless & ~train.responses.refused]
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
