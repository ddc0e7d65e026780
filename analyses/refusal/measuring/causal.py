"""What the refusal direction does: rates, doses, and the damage beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from analyses.refusal.measuring.edits import ablated, added, last_token
from analyses.refusal.measuring.speak import Said, Speaker
from analyses.shared.running import stage
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.generation import Edit, next_logits, token_log_probabilities
from interp.statistics.intervals import mean_interval, wilson
from probes.directions.directions import Direction
from probes.directions.selection import divergence
from probes.scorers import refusal_log_odds
from probes.statistics.nulls import random_vectors

STRENGTHS = (-1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
EDITS = ("base", "ablated", "ablated_affine", "added", "added_all")
_RANDOM_EACH = 5  # random directions of either kind that whole answers are given under
_RANDOM_DOSES = 10  # of either kind in the dose–response curve, which costs one token each


def rates(
    speaker: Speaker,
    sets: Mapping[str, Sequence[Prompt]],
    base: Mapping[str, Said],
    edits: Mapping[str, Edit],
    refusal_ids: Sequence[int],
) -> tuple[dict[str, Any], dict[str, dict[str, Said]]]:
    """Refusal rates of every set under every edit, and what was said.

    Args:
        speaker: who answers.
        sets: `harmful`, `harmless` and, if there are such prompts, `over_refusal`.
        base: what was said without an edit.
        edits: by the names of `EDITS`, without `base`.
        refusal_ids: first tokens of refusals.
    """
    said: dict[str, dict[str, Said]] = {}
    for name, prompts in sets.items():
        said[name] = {"base": base[name]}
        for edit_name, edit in edits.items():
            said[name][edit_name] = speaker.ask(f"test-{name}-{edit_name}", prompts, edit)
    found = {
        name: {edit: answered.rate(refusal_ids) for edit, answered in by_edit.items()}
        for name, by_edit in said.items()
    }
    return found, said


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
    speaker: Speaker,
    direction: Direction,
    states: Float[np.ndarray, "n width"],
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    refusal_ids: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """Refusal rates with random directions ablated on harmful and added on harmless prompts.

    `cosine` is that of the random direction with the selected one: from the states' covariance it
    is large wherever refusal is much of what varies, and such a draw is then no null.
    """
    found = []
    drawn = random_directions(direction, states, _RANDOM_EACH, seed)
    for number, (kind, vector) in enumerate(drawn):
        cosine = float(vector @ direction.vector) / direction.norm**2  # of equal length
        runs = {
            ("ablated", "harmful"): (harmful, ablated(speaker.checkpoint, vector)),
            ("added", "harmless"): (
                harmless,
                added(speaker.checkpoint, vector, direction.layer, last_token),
            ),
        }
        for (edit_name, side), (prompts, edit) in runs.items():
            said = speaker.ask(f"random-{number}-{edit_name}", prompts, edit)
            measured = said.rate(refusal_ids)
            kept = {key: measured[key] for key in ("rate", "n", "interval", "first_token")}
            found.append(
                {"direction": kind, "cosine": cosine, "edit": edit_name, "side": side, **kept}
            )
    return found


def dose_response(
    speaker: Speaker,
    direction: Direction,
    states: Float[np.ndarray, "n width"],
    sides: Mapping[str, Sequence[Row]],
    refusal_ids: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """Log-odds of refusal against how much of the direction is added at the last prompt token.

    Strength 1 is the raw mean difference. Beside it stands `random`, for either kind the least and
    the most that ten random directions of equal length do at the same strength.
    """
    drawn = random_directions(direction, states, _RANDOM_DOSES, seed)
    shown = stage(speaker.progress, "doses")
    every = [(side, strength) for side in sides for strength in sorted((*STRENGTHS, 0.0))]
    found = []
    for number, (side, strength) in enumerate(every):
        here = _Dose(speaker, direction.layer, sides[side], strength, tuple(refusal_ids))
        odds = here.log_odds(direction.vector)
        null: dict[str, list[float]] = {}
        for kind, vector in drawn if strength else ():
            null.setdefault(kind, []).append(float(here.log_odds(vector).mean()))
        found.append(
            {
                "side": side,
                "strength": strength,
                "log_odds": float(odds.mean()),
                "interval": mean_interval(odds, seed),
                "likely_refusal": float((odds > 0).mean()),
                "n": len(odds),
                "random": {kind: [min(values), max(values)] for kind, values in null.items()},
            }
        )
        if shown is not None:
            shown(number + 1, len(every))
    return found


@dataclass(frozen=True)
class _Dose:
    """So much of a vector, added at the last token of some prompts."""

    speaker: Speaker
    layer: int
    rows: Sequence[Row]
    strength: float
    refusal_ids: tuple[int, ...]

    def log_odds(self, vector: torch.Tensor) -> np.ndarray:
        """Of refusal, for each prompt."""
        checkpoint = self.speaker.checkpoint
        edit = added(checkpoint, vector, self.layer, last_token, self.strength)
        logits = next_logits(
            checkpoint, self.rows, edit=edit, batch_tokens=self.speaker.batch_tokens
        )
        return refusal_log_odds(logits, self.refusal_ids)


def first_divergence(
    speaker: Speaker, base: Said, edited: Said, edit: Edit, seed: int
) -> dict[str, Any]:
    """KL(base ‖ edited) in nats at the first token at which the two answers part.

    Answers that never part count 0; `diverged` says how many part. Reading the first token alone
    would miss an edit that acts later.
    """
    parted: list[Row] = []
    for row, one, other in zip(base.rows, base.replies, edited.replies, strict=True):
        shared = _shared(one.ids, other.ids)
        if shared < max(len(one.ids), len(other.ids)):
            parted.append(Row(row.index, (*row.ids, *one.ids[:shared]), row.domain, row.segments))
    nats = np.zeros(len(base))
    if parted:
        plain = next_logits(speaker.checkpoint, parted, batch_tokens=speaker.batch_tokens)
        moved = next_logits(
            speaker.checkpoint, parted, edit=edit, batch_tokens=speaker.batch_tokens
        )
        nats[: len(parted)] = divergence(plain, moved)
    return {
        "kl": float(nats.mean()),
        "interval": mean_interval(nats, seed),
        "diverged": len(parted),
        "n": len(base),
    }


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def own_reply_loss(
    speaker: Speaker, base: Said, edits: Mapping[str, Edit], seed: int
) -> list[dict[str, Any]]:
    """Loss in nats per token on the model's own answers to harmless prompts, edited and not."""
    spoken = [
        (Row(row.index, (*row.ids, *reply.ids), row.domain, row.segments), len(row))
        for row, reply in zip(base.rows, base.replies, strict=True)
        if reply.ids
    ]
    return _losses(speaker, "own answers", spoken, edits, seed)


def text_loss(
    speaker: Speaker, texts: Sequence[str], edits: Mapping[str, Edit], seed: int, most: int = 64
) -> list[dict[str, Any]]:
    """Loss in nats per token on benign text, as it is and with edits that name no position."""
    tokenizer: Any = speaker.checkpoint.tokenizer
    context = speaker.checkpoint.anatomy.context or 1024
    rows: list[tuple[Row, int]] = []
    for text in texts[:most]:
        ids = tokenizer(text, verbose=False)["input_ids"][: min(context, 1024)]
        if len(ids) > 1:
            rows.append((Row(len(rows), tuple(ids), "text", {"text": (0, len(ids))}), 1))
    return _losses(speaker, "benign text", rows, edits, seed) if rows else []


def _losses(
    speaker: Speaker,
    what: str,
    rows: Sequence[tuple[Row, int]],
    edits: Mapping[str, Edit],
    seed: int,
) -> list[dict[str, Any]]:
    losses: dict[str, np.ndarray] = {}
    plain: dict[str, Edit | None] = {"base": None, **edits}
    for name, edit in plain.items():
        logs = token_log_probabilities(
            speaker.checkpoint,
            [row for row, _ in rows],
            [begin for _, begin in rows],
            edit=edit,
            batch_tokens=speaker.batch_tokens,
        )
        losses[name] = np.array([-float(one.mean()) for one in logs])
    return [
        {
            "text": what,
            "edit": name,
            "loss": float(values.mean()),
            "increase": float((values - losses["base"]).mean()),
            "interval": mean_interval(values - losses["base"], seed),
            "n": len(values),
        }
        for name, values in losses.items()
    ]


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share with n and Wilson's interval."""
    n = len(hits)
    return {"rate": sum(hits) / n, "n": n, "interval": list(wilson(sum(hits), n))}
