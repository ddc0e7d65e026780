"""The draws of a bootstrap, and the ends of what they spread over."""

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
LEVEL = 95  # of every interval, in percent
_ENDS = (50 - LEVEL / 2, 50 + LEVEL / 2)


def draw_counts(
    cases: int, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Int[np.ndarray, "resamples cases"]:
    """How often each resample holds each case.

    The mean of a resample is a mean weighted by these counts, so no case has to be copied.
    """
    return generator.multinomial(cases, np.full(cases, 1 / cases), size=resamples)


def draw_rows(
    cases: int, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Int[np.ndarray, "resamples cases"]:
    """Which cases each resample holds, by index, for statistics that are no weighted means."""
    return generator.integers(cases, size=(resamples, cases))


def resampled_means(
    values: Float[np.ndarray, "cases ..."], generator: np.random.Generator
) -> Float[np.ndarray, "resamples ..."]:
    """The mean over the first axis of each of `RESAMPLES` resamples.

    Args:
        values: of the cases; all columns of a case are drawn together.
        generator: of the draws.
    """
    cases = len(values)
    draws = draw_counts(cases, generator) / cases
    means = draws @ values.reshape(cases, -1).astype(np.float64)
    return np.asarray(means.reshape(RESAMPLES, *values.shape[1:]))


def percentile_ends(
    resampled: Float[np.ndarray, "..."], axis: int = 0
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The 2.5th and the 97.5th percentile along an axis."""
    low, high = np.percentile(resampled, _ENDS, axis=axis)
    return np.asarray(low), np.asarray(high)
