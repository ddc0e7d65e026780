"""The refusal direction is chosen by the first token of answers, or it is said why it cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from analyses.refusal.measuring.speak import Responder, Responses
from analyses.refusal.report import CandidateRow
from analyses.shared.running import stage
from interp.errors import InputError
from interp.generation import next_logits
from probes.directions.directions import Directions
from probes.directions.selection import Selection, score_candidates, select
from probes.scorers import RefusalTokens, find_refusal_tokens, refusal_log_odds

_SELECTION_PROMPTS = 32  # of a side, as in Arditi et al.
_COLUMNS = ["layer", "position", "bypass", "induce", "kl", "discarded", "chosen_share", "near_tie"]


@dataclass(frozen=True)
class Choice:
    """What became of the selection.

    Attributes:
        selection: None where candidates could not be scored.
        why_not: a clause that says why; None if they were.
    """

    selection: Selection | None
    why_not: str | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The candidates with their scores, if there are any."""
        return pd.DataFrame(columns=_COLUMNS) if self.selection is None else self.selection.table

    @property
    def rows(self) -> tuple[CandidateRow, ...]:
        """The same as rows of a report; a score that is no number is None."""
        return tuple(
            CandidateRow(
                layer=int(row["layer"]),
                position=int(row["position"]),
                bypass=_known(row["bypass"]),
                induce=_known(row["induce"]),
                kl=_known(row["kl"]),
                discarded=str(row["discarded"]),
                chosen_share=float(row["chosen_share"]),
                near_tie=bool(row["near_tie"]),
            )
            for row in self.table.to_dict(orient="records")
        )


def _known(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def first_tokens(responder: Responder, train: Responses) -> tuple[RefusalTokens | None, str | None]:
    """The first tokens of refusals, or a clause that says why there are none.

    A model that thinks first opens all answers alike; what it says behind the thought can be
    scored, but not by the first token.

    Args:
        responder: that answered.
        train: prompts of which some are refused and some not.
    """
    logits = next_logits(responder.checkpoint, train.rows, batch_tokens=responder.batch_tokens)
    refused = torch.tensor(train.refused)
    sides = logits[refused], logits[~refused]
    try:
        return find_refusal_tokens(*sides, responder.checkpoint.tokenizer), None
    except InputError as error:  # both sides are there, so that it can be the tokens alone
        return None, str(error).removesuffix(".")


def choose(
    responder: Responder,
    validation: Responses,
    difference: Directions,
    tokens: RefusalTokens,
    layers: Sequence[int] | None,
    seed: int,
) -> Choice:
    """The candidates of the post-instruction tokens, on validation prompts that behave.

    Args:
        responder: that answers.
        validation: prompts, of which those of the labels harmful and harmless count.
        difference: harmful less harmless, at every layer and position.
        tokens: first tokens of refusals.
        layers: of the candidates; all if None.
        seed: of the bootstrap.
    """
    odds = refusal_log_odds(
        next_logits(responder.checkpoint, validation.rows, batch_tokens=responder.batch_tokens),
        tokens.ids,
    )
    labels = np.array([prompt.label for prompt in validation.prompts])
    sides = [
        validation.where((labels == label) & (odds * sign > 0)).rows[:_SELECTION_PROMPTS]
        for label, sign in (("harmful", 1.0), ("harmless", -1.0))
    ]
    if not all(sides):
        return Choice(
            None,
            f"the first token is one of refusals ({', '.join(map(repr, tokens.texts))}) behind "
            f"{len(sides[0])} harmful validation prompts and another one behind {len(sides[1])} "
            "harmless ones, where both are needed",
        )
    scores = score_candidates(
        responder.checkpoint,
        candidates(difference, layers),
        sides[0],
        sides[1],
        tokens.ids,
        batch_tokens=responder.batch_tokens,
        workdir=None if responder.workdir is None else responder.workdir / "candidates",
        progress=stage(responder.progress, "candidates"),
    )
    return Choice(select(scores, responder.checkpoint.anatomy.n_layers, seed=seed))


def candidates(difference: Directions, layers: Sequence[int] | None) -> Directions:
    """Of some layers, and behind the instruction where the template puts tokens there."""
    behind = slice(1, None) if len(difference.positions) > 1 else slice(None)
    wanted = [i for i, layer in enumerate(difference.layers) if layers is None or layer in layers]
    return Directions(
        vectors=difference.vectors[wanted][:, behind],
        residual_norms=difference.residual_norms[wanted][:, behind],
        layers=tuple(difference.layers[i] for i in wanted),
        positions=difference.positions[behind],
        site=difference.site,
        method=difference.method,
        t_inst=difference.t_inst,
        meta=difference.meta,
    )
