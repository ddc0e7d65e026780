"""What the refusal direction does: rates, doses, and the damage beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from analyses.refusal.measuring.edits import ablated, added, last_token
from analyses.refusal.measuring.speak import Responder, Responses
from analyses.refusal.report_effects import (
    AnswerDivergence,
    DoseRow,
    EditRates,
    RandomRateRow,
    RefusalRate,
    UtilityRow,
)
from analyses.shared.reports import NotMeasured
from analyses.shared.running import stage
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.generation import Edit, next_logits, token_log_probabilities
from interp.statistics.intervals import mean_interval
from probes.directions.directions import Direction
from probes.directions.selection import divergence
from probes.scorers import refusal_log_odds
from probes.statistics.nulls import random_vectors

STRENGTHS = (-1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
EDITS = ("base", "ablated", "ablated_affine", "added", "added_all")
NO_DIRECTION = NotMeasured("no refusal direction was selected")
_RANDOM_EACH = 5  # random directions of either kind that whole answers are given under
_RANDOM_DOSES = 10  # of either kind in the dose–response curve, which costs one token each


def answered(
    responder: Responder,
    base: Mapping[str, Responses],
    edits: Mapping[str, Edit],
) -> dict[str, dict[str, Responses]]:
    """The answers to every set under every edit.

    Args:
        responder: that answers.
        base: unedited answers to `harmful`, `harmless` and, if there are such prompts,
            `over_refusal`.
        edits: by the names of `EDITS`, without `base`.
    """
    return {
        name: {
            "base": unedited,
            **{
                edit_name: responder.respond(f"test-{name}-{edit_name}", unedited.prompts, edit)
                for edit_name, edit in edits.items()
            },
        }
        for name, unedited in base.items()
    }


def rates(by_edit: Mapping[str, Responses], refusal_ids: Sequence[int]) -> EditRates:
    """Refusal rates of a set of prompts under every edit.

    Args:
        by_edit: answers to it by the names of `EDITS`.
        refusal_ids: first tokens of refusals.
    """

    def under(edit: str) -> RefusalRate | NotMeasured:
        return by_edit[edit].rate(refusal_ids) if edit in by_edit else NO_DIRECTION

    return EditRates(
        base=by_edit["base"].rate(refusal_ids),
        ablated=under("ablated"),
        ablated_affine=under("ablated_affine"),
        added=under("added"),
        added_all=under("added_all"),
    )


def random_directions(
    direction: Direction, states: Float[np.ndarray, "n width"], count: int, seed: int
) -> list[tuple[str, torch.Tensor]]:
    """Random vectors of the direction's length, isotropic and from the states' covariance."""
    like = direction.vector.double().numpy()
    made = []
    for kind in ("isotropic", "covariance"):
        drawn = random_vectors(count, like, states=states, kind=kind, seed=seed)
        made += [(kind, torch.tensor(vector, dtype=torch.float32)) for vector in drawn]
    return made


def random_rates(
    responder: Responder,
    direction: Direction,
    states: Float[np.ndarray, "n width"],
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    refusal_ids: Sequence[int],
    seed: int,
) -> tuple[RandomRateRow, ...]:
    """Refusal rates with random directions ablated on harmful and added on harmless prompts.

    `cosine` is that of the random direction with the selected one: from the states' covariance it
    is large wherever refusal is much of what varies, and such a draw is then no null.
    """
    found = []
    drawn = random_directions(direction, states, _RANDOM_EACH, seed)
    for number, (kind, vector) in enumerate(drawn):
        cosine = float(vector @ direction.vector) / direction.norm**2  # of equal length
        runs = {
            ("ablated", "harmful"): (harmful, ablated(responder.checkpoint, vector)),
            ("added", "harmless"): (
                harmless,
                added(responder.checkpoint, vector, direction.layer, last_token),
            ),
        }
        for (edit_name, side), (prompts, edit) in runs.items():
            responses = responder.respond(f"random-{number}-{edit_name}", prompts, edit)
            measured = responses.rate(refusal_ids)
            found.append(
                RandomRateRow(
                    direction=kind,
                    cosine=cosine,
                    edit=edit_name,
                    side=side,
                    rate=measured.rate,
                    n=measured.n,
                    interval=measured.interval,
                    first_token=measured.first_token,
                )
            )
    return tuple(found)


def dose_response(
    responder: Responder,
    direction: Direction,
    states: Float[np.ndarray, "n width"],
    sides: Mapping[str, Sequence[Row]],
    refusal_ids: Sequence[int],
    seed: int,
) -> tuple[DoseRow, ...]:
    """Log-odds of refusal against how much of the direction is added at the last prompt token.

    Strength 1 is the raw mean difference. Beside it stands `random`, for either kind the least and
    the most that ten random directions of equal length do at the same strength.
    """
    drawn = random_directions(direction, states, _RANDOM_DOSES, seed)
    shown = stage(responder.progress, "doses")
    every = [(side, strength) for side in sides for strength in sorted((*STRENGTHS, 0.0))]
    found = []
    for number, (side, strength) in enumerate(every):
        here = _Dose(responder, direction.layer, sides[side], strength, tuple(refusal_ids))
        odds = here.log_odds(direction.vector)
        null: dict[str, list[float]] = {}
        for kind, vector in drawn if strength else ():
            null.setdefault(kind, []).append(float(here.log_odds(vector).mean()))
        found.append(
            DoseRow(
                side=side,
                strength=strength,
                log_odds=float(odds.mean()),
                interval=mean_interval(odds, seed, "prompts"),
                likely_refusal=float((odds > 0).mean()),
                n=len(odds),
                random={kind: (min(values), max(values)) for kind, values in null.items()},
            )
        )
        if shown is not None:
            shown(number + 1, len(every))
    return tuple(found)


@dataclass(frozen=True)
class _Dose:
    """So much of a vector, added at the last token of some prompts."""

    responder: Responder
    layer: int
    rows: Sequence[Row]
    strength: float
    refusal_ids: tuple[int, ...]

    def log_odds(self, vector: torch.Tensor) -> np.ndarray:
        """Of refusal, for each prompt."""
        checkpoint = self.responder.checkpoint
        edit = added(checkpoint, vector, self.layer, last_token, self.strength)
        logits = next_logits(
            checkpoint, self.rows, edit=edit, batch_tokens=self.responder.batch_tokens
        )
        return refusal_log_odds(logits, self.refusal_ids)


def first_divergence(
    responder: Responder, base: Responses, edited: Responses, edit: Edit, seed: int
) -> AnswerDivergence:
    """KL(base ‖ edited) in nats at the first token at which the two answers diverge.

    Answers that never do count 0; `diverged` says how many do. Reading the first token alone
    would miss an edit that acts later.
    """
    diverged: list[Row] = []
    for row, one, other in zip(base.rows, base.replies, edited.replies, strict=True):
        shared = _shared(one.ids, other.ids)
        if shared < max(len(one.ids), len(other.ids)):
            diverged.append(Row(row.index, (*row.ids, *one.ids[:shared]), row.domain, row.segments))
    nats = np.zeros(len(base))
    if diverged:
        plain = next_logits(responder.checkpoint, diverged, batch_tokens=responder.batch_tokens)
        moved = next_logits(
            responder.checkpoint, diverged, edit=edit, batch_tokens=responder.batch_tokens
        )
        nats[: len(diverged)] = divergence(plain, moved)
    return AnswerDivergence(
        kl=float(nats.mean()),
        interval=mean_interval(nats, seed, "prompts"),
        diverged=len(diverged),
        n=len(base),
    )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def own_reply_loss(
    responder: Responder, base: Responses, edits: Mapping[str, Edit], seed: int
) -> tuple[UtilityRow, ...]:
    """Loss in nats per token on the model's own answers to harmless prompts, edited and not."""
    answers = [
        (Row(row.index, (*row.ids, *reply.ids), row.domain, row.segments), len(row))
        for row, reply in zip(base.rows, base.replies, strict=True)
        if reply.ids
    ]
    return _losses(responder, "own answers", answers, edits, seed)


def text_loss(
    responder: Responder, texts: Sequence[str], edits: Mapping[str, Edit], seed: int, most: int = 64
) -> tuple[UtilityRow, ...]:
    """Loss in nats per token on benign text, as it is and with edits that name no position."""
    tokenizer: Any = responder.checkpoint.tokenizer
    context = responder.checkpoint.anatomy.context or 1024
    rows: list[tuple[Row, int]] = []
    for text in texts[:most]:
        ids = tokenizer(text, verbose=False)["input_ids"][: min(context, 1024)]
        if len(ids) > 1:
            rows.append((Row(len(rows), tuple(ids), "text", {"text": (0, len(ids))}), 1))
    return _losses(responder, "benign text", rows, edits, seed) if rows else ()


def _losses(
    responder: Responder,
    what: str,
    rows: Sequence[tuple[Row, int]],
    edits: Mapping[str, Edit],
    seed: int,
) -> tuple[UtilityRow, ...]:
    losses: dict[str, np.ndarray] = {}
    plain: dict[str, Edit | None] = {"base": None, **edits}
    for name, edit in plain.items():
        logs = token_log_probabilities(
            responder.checkpoint,
            [row for row, _ in rows],
            [begin for _, begin in rows],
            edit=edit,
            batch_tokens=responder.batch_tokens,
        )
        losses[name] = np.array([-float(one.mean()) for one in logs])
    return tuple(
        UtilityRow(
            text=what,
            edit=name,
            loss=float(values.mean()),
            increase=float((values - losses["base"]).mean()),
            interval=mean_interval(values - losses["base"], seed, "texts"),
            n=len(values),
        )
        for name, values in losses.items()
    )
