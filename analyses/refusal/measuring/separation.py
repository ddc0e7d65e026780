"""How well a direction tells two classes at every layer and position, beside its nulls.

Directions are differences in means of training prompts; every figure is of test prompts.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from analyses.refusal.report import GeometryRow, Grid, SeparationRow
from interp.capture.prompt_states import PromptStates
from interp.data.rows import Row
from interp.statistics.auroc import area
from probes.directions.directions import Cells, Directions
from probes.statistics.floors import last_token_floor
from probes.statistics.metrics import auroc
from probes.statistics.nulls import random_direction_null, shuffled_label_null

PERMUTATIONS = 1000
RANDOM = 1000


def separation(
    directions: Directions,
    train: PromptStates,
    train_positive: Bool[np.ndarray, " n"],
    test: PromptStates,
    test_positive: Bool[np.ndarray, " m"],
    rows: tuple[Sequence[Row], Sequence[Row]],
    seed: int,
    clusters: Shaped[np.ndarray, " m"] | None = None,
) -> tuple[SeparationRow, ...]:
    """AUROC on test prompts, a row for each layer and position.

    Args:
        directions: fitted on the training prompts.
        train: their states.
        train_positive: their classes.
        test: states of other prompts.
        test_positive: their classes.
        rows: training and test prompts, for the floor: what the token at the position tells alone.
        seed: of the nulls.
        clusters: a name for each test prompt, equal for prompts that are not independent; the
            intervals resample these.

    Returns:
        `null_max` is the 95th percentile of the largest AUROC of the grid under shuffled labels,
        `random_isotropic` and `random_covariance` the 95th percentiles of random directions' folded
        AUROC at that cell.
    """
    null = shuffled_label_null(
        train.values,
        train_positive,
        test.values,
        test_positive,
        permutations=PERMUTATIONS,
        seed=seed,
    )
    floors = {
        position: last_token_floor(
            _tokens(rows[0], position), train_positive, _tokens(rows[1], position), test_positive
        ).value
        for position in test.positions
    }
    found = []
    for i, layer in enumerate(test.layers):
        for j, position in enumerate(test.positions):
            here = test.values[:, i, j].astype(np.float64)
            measured = auroc(
                here @ directions.vectors[i, j], test_positive, clusters=clusters, seed=seed
            )
            isotropic, covariance = _random(here, test_positive, seed)
            found.append(
                SeparationRow(
                    layer=layer,
                    segment_position=position,
                    auroc=measured.value,
                    interval=measured.interval,
                    interval_method=measured.method,
                    null_max=null.q95,
                    last_token_floor=floors[position],
                    null_quantile=null.quantile(measured.value),
                    n=measured.positives + measured.negatives,
                    random_isotropic=isotropic,
                    random_covariance=covariance,
                )
            )
    return tuple(found)


def _tokens(rows: Sequence[Row], position: int) -> np.ndarray:
    return np.array([row.ids[position] for row in rows])


def _random(
    states: Float[np.ndarray, "m width"], positive: Bool[np.ndarray, " m"], seed: int
) -> tuple[float, float]:
    """95th percentiles of random directions, isotropic and from the states' covariance.

    0.5 where all states are one.
    """
    if not states.std(0).any():
        return 0.5, 0.5
    isotropic, covariance = (
        float(
            np.percentile(
                random_direction_null(states, positive, kind=kind, count=RANDOM, seed=seed), 95
            )
        )
        for kind in ("isotropic", "covariance")
    )
    return isotropic, covariance


def within_strata(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    strata: Bool[np.ndarray, " n"],
) -> float | None:
    """AUROC within each of two strata, averaged, so that what tells the strata does not count.

    Strata that hold one class only are left out; None if both do.
    """
    found = []
    for value in (True, False):
        here = strata == value
        high, low = scores[here & positive], scores[here & ~positive]
        if len(high) and len(low):
            found.append(area(high, low))
    return float(np.mean(found)) if found else None


def within_strata_null(
    train: Float[np.ndarray, "n layers positions width"],
    train_cells: Cells,
    test: Float[np.ndarray, "m layers positions width"],
    test_cells: Cells,
    seed: int,
) -> float | None:
    """95th percentile of the best `within_strata` of a grid when refusal is shuffled.

    Labels are shuffled within harmful and within harmless prompts, on both sides, and the refusal
    direction is made anew from each shuffle, so that the null is of the statistic that is reported.
    None where that has no value.
    """
    strata = [test_cells.harmful == harmful for harmful in (True, False)]
    strata = [here for here in strata if 0 < test_cells.refused[here].sum() < here.sum()]
    if not strata:
        return None
    rng = np.random.default_rng(seed)
    weights = np.stack([_weights(_shuffled(train_cells, rng)) for _ in range(PERMUTATIONS)])
    refused = np.stack([_shuffled(test_cells, rng).refused for _ in range(PERMUTATIONS)])
    best = np.full(PERMUTATIONS, -np.inf)
    for i in range(train.shape[1]):
        for j in range(train.shape[2]):
            x = train[:, i, j].astype(np.float64)
            x -= x.mean(0)  # falls out of a difference of means
            scores = test[:, i, j].astype(np.float64) @ (weights @ x).T
            areas = [_areas(scores[here], refused[:, here]) for here in strata]
            best = np.maximum(best, np.mean(areas, 0))
    return float(np.sort(best)[int(np.ceil(0.95 * (PERMUTATIONS + 1))) - 1])


def _areas(
    scores: Float[np.ndarray, "n shuffles"], positive: Bool[np.ndarray, "shuffles n"]
) -> Float[np.ndarray, " shuffles"]:
    """AUROC of every column of scores by its own labels, ties counted half."""
    high = positive.sum(1)
    low = positive.shape[1] - high
    above = (rankdata(scores, axis=0).T * positive).sum(1) - high * (high + 1) / 2
    return np.asarray(above / (high * low))


def _shuffled(cells: Cells, rng: np.random.Generator) -> Cells:
    """The same cells with refusal shuffled within harmful and within harmless prompts."""
    refused = cells.refused.copy()
    for harmful in (True, False):
        here = np.flatnonzero(cells.harmful == harmful)
        refused[here] = rng.permutation(refused[here])
    return Cells(cells.harmful, refused)


def _weights(cells: Cells) -> Float[np.ndarray, " n"]:
    """What each prompt counts in the refusal direction, as `refusal_directions` makes it."""
    masks = {(h, r): cells[h, r] for h in (True, False) for r in (True, False)}
    if all(mask.any() for mask in masks.values()):
        return np.sum(
            [mask * (0.5 if r else -0.5) / mask.sum() for (_, r), mask in masks.items()], axis=0
        )
    refused = cells.refused
    return np.asarray(refused / refused.sum() - ~refused / (~refused).sum())


def halves(
    train: PromptStates, positive: Bool[np.ndarray, " n"], seed: int, resamples: int = 50
) -> Float[np.ndarray, "layers positions"]:
    """Median cosine of the directions of two halves of the training prompts, over random halves.

    Near 1 a direction does not depend on which prompts were taken.
    """
    rng = np.random.default_rng(seed)
    cosines = []
    states = train.values.astype(np.float64)
    for _ in range(resamples):
        first = np.zeros(len(positive), bool)
        for side in (positive, ~positive):
            members = rng.permutation(np.flatnonzero(side))
            first[members[: len(members) // 2]] = True
        one, other = (
            states[half & positive].mean(0) - states[half & ~positive].mean(0)
            for half in (first, ~first)
        )
        size = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines.append((one * other).sum(-1) / np.where(size > 0, size, np.inf))
    return np.asarray(np.median(cosines, 0))


def geometry(
    directions: Directions, train: PromptStates, positive: Bool[np.ndarray, " n"], seed: int
) -> tuple[GeometryRow, ...]:
    """How long, how stable and how concentrated each direction is.

    `massive_share` is the part of its squared length in the channel where the mean residual is
    largest, `mean_cosine` its cosine with the mean residual: a direction that is large in either
    may be a difference of norms.
    """
    mean = train.values.mean(0, dtype=np.float64)
    stable = halves(train, positive, seed)
    found = []
    for i, layer in enumerate(directions.layers):
        for j, position in enumerate(directions.positions):
            vector, centre = directions.vectors[i, j], mean[i, j]
            length = float(np.linalg.norm(vector))
            size = length * float(np.linalg.norm(centre))
            massive = int(np.abs(centre).argmax())
            found.append(
                GeometryRow(
                    layer=layer,
                    segment_position=position,
                    norm=length,
                    relative_norm=length / max(float(directions.residual_norms[i, j]), 1e-30),
                    split_half_cosine=float(stable[i, j]),
                    massive_share=float(vector[massive] ** 2 / length**2) if length else None,
                    mean_cosine=float(vector @ centre / size) if size else None,
                )
            )
    return tuple(found)


def cosine_map(directions: Directions, position: int) -> Grid:
    """Cosines between all layers' directions at one position; None where one has no length."""
    vectors = directions.vectors[:, directions.positions.index(position)]
    norms = np.linalg.norm(vectors, axis=-1)
    product = vectors @ vectors.T
    return tuple(
        tuple(
            float(product[i, j] / (norms[i] * norms[j])) if norms[i] and norms[j] else None
            for j in range(len(vectors))
        )
        for i in range(len(vectors))
    )
