"""What random directions score where a detector of inputs is read."""

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.statistics.auroc import areas
from probes.statistics.nulls import random_direction_null

_LEAST = 1000


def random_areas(
    plain: Float[np.ndarray, "n width"],
    triggered: Float[np.ndarray, "m width"],
    *,
    count: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " count"]:
    """Folded AUROCs of random directions, triggered against plain states.

    Raises:
        InputError: fewer than 1000 directions.
    """
    states = np.concatenate([plain, triggered]).astype(np.float64)
    positive = np.arange(len(states)) >= len(plain)
    return random_direction_null(states, positive, kind="isotropic", count=count, seed=seed)


def random_differences(
    plain: Float[np.ndarray, "n width"],
    triggered: Float[np.ndarray, "m width"],
    distracted: Float[np.ndarray, "k width"],
    *,
    count: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " count"]:
    """AUROC of triggered less that of distracted states, each direction signed for the first.

    Raises:
        InputError: fewer than 1000 directions.
    """
    if count < _LEAST:
        raise InputError(f"{count} random directions are too few for a null; draw {_LEAST}.")
    directions = np.random.default_rng(seed).normal(size=(plain.shape[1], count))
    low, high, other = (
        some.astype(np.float64) @ directions for some in (plain, triggered, distracted)
    )
    found, null = areas(high, low), areas(other, low)
    return np.asarray(np.where(found >= 0.5, found - null, null - found))
