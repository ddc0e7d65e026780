"""Which candidate direction is the refusal direction: the selection of Arditi et al., exactly.

arXiv 2406.11717, §2.3 and appendix C, with the inequalities of the released code. The whole table
is kept, and the choice is bootstrapped over the validation prompts, because thirty of them leave
several candidates within noise of each other.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.data.rows import Row, Rows
from interp.errors import CheckError, InputError
from interp.generation import next_logits
from interp.interventions.edits_by_site import ablate_direction, add_vector, stream_sites
from interp.model.sites import Site
from interp.resume.files import once
from interp.resume.run_folder import run_folder
from interp.statistics.resampling import RESAMPLES, draw_counts, percentile_ends
from probes.directions.directions import Directions
from probes.scorers import refusal_log_odds

_KL_FLOOR = 1e-6


@dataclass(frozen=True)
class CandidateScores:
    """What each candidate does to each validation prompt.

    Attributes:
        layers: of the first axis.
        positions: of the second.
        bypass: log-odds of refusal on harmful prompts with the direction ablated everywhere.
        induce: log-odds of refusal on harmless prompts with the direction added at its layer.
        kl: KL(base ‖ ablated) of the next token on harmless prompts, in nats.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    bypass: Float[np.ndarray, "layers positions harmful"]
    induce: Float[np.ndarray, "layers positions harmless"]
    kl: Float[np.ndarray, "layers positions harmless"]


@dataclass(frozen=True)
class Selection:
    """The table of all candidates, and the choice.

    Attributes:
        table: a row a candidate: layer, position, bypass, induce, kl, `discarded` (why, or empty),
            `chosen_share` (of the bootstrap resamples in which it is chosen) and `near_tie` (its
            bypass cannot be told from the chosen one's at 95 %).
        chosen: (layer, position), or None if no candidate survives.
    """

    table: pd.DataFrame
    chosen: tuple[int, int] | None

    @property
    def survivors(self) -> int:
        """Candidates that no filter discards."""
        return int((self.table["discarded"] == "").sum())

    def require(self) -> tuple[int, int]:
        """The chosen candidate.

        Raises:
            CheckError: no candidate survives; says how many fell to which filter.
        """
        if self.chosen is None:
            reasons = self.table["discarded"].value_counts()
            told = ", ".join(f"{count} by {reason}" for reason, count in reasons.items())
            raise CheckError(
                f"none of the {len(self.table)} candidate directions survives the filters "
                f"({told}): no single direction here carries refusal."
            )
        return self.chosen


def score_candidates(
    checkpoint: Checkpoint,
    directions: Directions,
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    refusal_ids: Sequence[int],
    *,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CandidateScores:
    """Try every candidate: three forward passes of the validation prompts for each.

    Args:
        checkpoint: whose refusal it is.
        directions: the candidates.
        harmful: validation prompts that the model refuses.
        harmless: validation prompts that it accepts.
        refusal_ids: first tokens of refusals.
        batch_tokens: most tokens in a batch.
        workdir: where each candidate leaves its scores, so that a stopped run goes on.
        progress: called with (candidates done, candidates in all).

    Raises:
        InputError: a side is empty.
    """
    if not harmful or not harmless:
        raise InputError(
            "selection needs harmful prompts that the model refuses and harmless ones that it "
            f"accepts; there are {len(harmful)} and {len(harmless)}."
        )
    own = None
    if workdir is not None:
        sides = [Rows(tuple(side), False).sha256 for side in (harmful, harmless)]
        run = {
            "model": checkpoint.measured_on,
            "prompts": sides,
            "places": [list(directions.layers), list(directions.positions)],
            "directions": hashlib.sha256(directions.vectors.tobytes()).hexdigest(),
            "refusal_ids": list(refusal_ids),
        }
        own = run_folder(workdir, "candidates", run)
    base = next_logits(checkpoint, harmless, batch_tokens=batch_tokens)
    places = [
        (i, j) for i in range(len(directions.layers)) for j in range(len(directions.positions))
    ]
    shape = len(directions.layers), len(directions.positions)
    found = {
        "bypass": np.full((*shape, len(harmful)), np.nan),
        "induce": np.full((*shape, len(harmless)), np.nan),
        "kl": np.full((*shape, len(harmless)), np.nan),
    }
    for number, (i, j) in enumerate(places):
        path = None if own is None else own / f"candidate-{number:05d}.safetensors"
        vector = torch.tensor(directions.vectors[i, j], dtype=torch.float32)
        tried = functools.partial(
            _try,
            checkpoint,
            vector,
            directions.layers[i],
            (harmful, harmless),
            base,
            refusal_ids,
            batch_tokens,
        )
        one = once(path, tried)
        for name, scores in one.items():
            found[name][i, j] = scores
        if progress is not None:
            progress(number + 1, len(places))
    return CandidateScores(directions.layers, directions.positions, **found)


def _try(
    checkpoint: Checkpoint,
    vector: Tensor,
    layer: int,
    sides: tuple[Sequence[Row], Sequence[Row]],
    base: Float[Tensor, "n vocabulary"],
    refusal_ids: Sequence[int],
    batch_tokens: int,
) -> dict[str, np.ndarray]:
    """The three scores of one candidate; NaN for the zero vector, which has no direction."""
    harmful, harmless = sides
    if not bool(vector.norm() > 0):
        missing = np.full(len(harmless), np.nan)
        return {"bypass": np.full(len(harmful), np.nan), "induce": missing, "kl": missing}

    @contextmanager
    def ablated(batch: Sequence[Row]) -> Iterator[None]:
        with ablate_direction(checkpoint, vector, stream_sites(checkpoint)):
            yield

    @contextmanager
    def added(batch: Sequence[Row]) -> Iterator[None]:
        with add_vector(checkpoint, vector, Site("resid_pre", layer)):
            yield

    without = next_logits(checkpoint, harmless, edit=ablated, batch_tokens=batch_tokens)
    bypassed = next_logits(checkpoint, harmful, edit=ablated, batch_tokens=batch_tokens)
    induced = next_logits(checkpoint, harmless, edit=added, batch_tokens=batch_tokens)
    return {
        "bypass": refusal_log_odds(bypassed, refusal_ids),
        "induce": refusal_log_odds(induced, refusal_ids),
        "kl": divergence(base, without),
    }


def divergence(
    base: Float[Tensor, "n vocabulary"], other: Float[Tensor, "n vocabulary"]
) -> Float[np.ndarray, " n"]:
    """KL(base ‖ other) of the next token in nats, in float64, 1e-6 within both logarithms.

    As the released code of Arditi et al. computes it; the floor keeps a probability of zero finite.
    """
    p, q = base.double().softmax(-1), other.double().softmax(-1)
    nats = (p * ((p + _KL_FLOOR).log() - (q + _KL_FLOOR).log())).sum(-1)
    return np.asarray(nats.numpy())


def select(
    scores: CandidateScores,
    n_layers: int,
    *,
    largest_kl: float = 0.1,
    least_induce: float = 0.0,
    layer_share: float = 0.8,
    seed: int = 0,
) -> Selection:
    """The candidate with the lowest bypass score among those that pass the filters.

    Discarded are candidates with a score that is NaN, of layers l ≥ int(0.8 L), with KL above
    0.1 nats, and with an induce score below 0; the released code keeps equality in the last two.

    Args:
        scores: of all candidates.
        n_layers: blocks of the model, L.
        largest_kl: nats.
        least_induce: log-odds.
        layer_share: of the layers, counted from the first.
        seed: of the bootstrap.
    """
    means = {
        name: getattr(scores, name).mean(-1).reshape(-1) for name in ("bypass", "induce", "kl")
    }
    layers = np.repeat(scores.layers, len(scores.positions))
    table = pd.DataFrame(
        {"layer": layers, "position": np.tile(scores.positions, len(scores.layers)), **means}
    )
    late = layers >= int(layer_share * n_layers)
    limits = (largest_kl, least_induce)
    table["discarded"] = _reasons(means, late, *limits)
    chosen = _choice(means["bypass"], table["discarded"].to_numpy() == "")
    drawn = _resampled(scores, late, limits, seed)
    table["chosen_share"] = np.bincount(drawn[drawn >= 0], minlength=len(table)) / RESAMPLES
    table["near_tie"] = _near_ties(scores, table, chosen, seed)
    place = None if chosen is None else (int(layers[chosen]), int(table["position"][chosen]))
    return Selection(table, place)


def _reasons(
    means: dict[str, np.ndarray], late: np.ndarray, largest_kl: float, least_induce: float
) -> list[str]:
    reasons = []
    for place in range(len(late)):
        bypass, induce, kl = (float(means[name][place]) for name in ("bypass", "induce", "kl"))
        if np.isnan([bypass, induce, kl]).any():
            reasons.append("no number")
        elif late[place]:
            reasons.append("layer")
        elif kl > largest_kl:
            reasons.append("kl")
        elif induce < least_induce:
            reasons.append("induce")
        else:
            reasons.append("")
    return reasons


def _choice(bypass: np.ndarray, survives: np.ndarray) -> int | None:
    """Index of the lowest bypass among survivors, the first of equal ones."""
    if not survives.any():
        return None
    return int(np.argmin(np.where(survives, bypass, np.inf)))


def _resampled(
    scores: CandidateScores, late: np.ndarray, limits: tuple[float, float], seed: int
) -> np.ndarray:
    """The choice on each bootstrap resample of the prompts; −1 where none survives."""
    rng = np.random.default_rng(seed)
    candidates = late.size
    sides = {"bypass": scores.bypass, "induce": scores.induce, "kl": scores.kl}
    flat = {name: values.reshape(candidates, -1) for name, values in sides.items()}
    harmful, harmless = flat["bypass"].shape[1], flat["kl"].shape[1]
    weights = {"bypass": draw_counts(harmful, rng) / harmful}
    # Induce and KL are of the same prompts, so they are resampled together.
    weights["induce"] = weights["kl"] = draw_counts(harmless, rng) / harmless
    drawn = {name: flat[name] @ weights[name].T for name in flat}
    largest_kl, least_induce = limits
    survives = ~late[:, None] & (drawn["kl"] <= largest_kl) & (drawn["induce"] >= least_induce)
    survives &= ~np.isnan(drawn["bypass"])
    best = np.argmin(np.where(survives, drawn["bypass"], np.inf), axis=0)
    return np.where(survives.any(0), best, -1)


def _near_ties(
    scores: CandidateScores, table: pd.DataFrame, chosen: int | None, seed: int
) -> list[bool]:
    """Survivors whose bypass, prompt by prompt, is not above the chosen one's at 95 %."""
    if chosen is None:
        return [False] * len(table)
    flat = scores.bypass.reshape(len(table), -1)
    alive = np.flatnonzero(table["discarded"] == "")
    gap = flat[alive] - flat[chosen]
    n = gap.shape[1]
    draws = draw_counts(n, np.random.default_rng(seed)) / n
    low, _ = percentile_ends(gap @ draws.T, axis=1)
    tied = set(alive[low <= 0].tolist()) - {chosen}
    return [place in tied for place in range(len(table))]
