"""Where a guard begins to flag, set on benign traffic and confirmed on other benign traffic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.data.prompt_sets import PromptSet, without_duplicates
from interp.errors import InputError
from interp.statistics.intervals import Interval, Method
from probes.statistics.metrics import operating_point, threshold_for_fpr


@dataclass(frozen=True)
class Threshold:
    """Where a guard begins to flag, and what is known about it.

    Attributes:
        value: scores above it are flagged. (The paper also flags a score of exactly 0.)
        wanted_fpr: that it was set for; None for the fixed threshold 0.
        fpr: on benign prompts that it was not set on; None where there were none.
        fpr_interval: Wilson's, at 95 %.
        benign: number of these prompts.
    """

    value: float
    wanted_fpr: float | None = None
    fpr: float | None = None
    fpr_interval: Interval | None = None
    benign: int = 0

    @classmethod
    def on_benign(
        cls,
        setting: Float[np.ndarray, " n"],
        confirming: Float[np.ndarray, " m"],
        wanted_fpr: float | None,
    ) -> "Threshold":
        """Set it on the scores of one half of benign traffic, and confirm it on the other.

        Args:
            setting: scores of one half.
            confirming: scores of the other.
            wanted_fpr: false-positive rate; None leaves the threshold at 0.

        Raises:
            InputError: there are too few prompts.
            NumericalError: a score is not finite.
        """
        value = 0.0 if wanted_fpr is None else threshold_for_fpr(setting, wanted_fpr)
        point = operating_point(confirming, np.zeros(len(confirming), dtype=bool), value)
        return cls(value, wanted_fpr, point.fpr, point.fpr_interval, len(confirming))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Threshold":
        """The threshold of `dataclasses.asdict`, whose interval is a plain pair.

        Raises:
            KeyError: the interval is absent.
            TypeError: other fields are absent, or unknown.
        """
        pair = stored["fpr_interval"]
        interval = None if pair is None else Interval(pair, Method.WILSON, "prompts")
        return cls(**{**stored, "fpr_interval": interval})


def benign_halves(
    benign: PromptSet, fitted: PromptSet, wanted_fpr: float | None, seed: int = 0
) -> tuple[PromptSet, PromptSet]:
    """Two random halves of the benign prompts that nothing was fitted on, without duplicates.

    Args:
        benign: prompts as they will come in.
        fitted: those that a guard is fitted on.
        wanted_fpr: the rate that a threshold is to be set for; None for a fixed threshold.
        seed: of the halves.

    Raises:
        InputError: a half has fewer than 3 / rate prompts, or the rate is outside of (0, 1).
    """
    _, fresh = without_duplicates(fitted, benign)
    _require_benign(len(fresh), wanted_fpr)
    order = np.random.default_rng(seed).permutation(len(fresh)).tolist()
    half = len(fresh) // 2
    return (
        PromptSet(tuple(fresh.prompts[i] for i in sorted(order[:half]))),
        PromptSet(tuple(fresh.prompts[i] for i in sorted(order[half:]))),
    )


def _require_benign(count: int, wanted_fpr: float | None) -> None:
    if wanted_fpr is None:
        if not count:
            raise InputError("there is no benign prompt that the guard is not fitted on.")
        return
    if not 0 < wanted_fpr < 1:
        raise InputError(f"a false-positive rate of {wanted_fpr} is not between 0 and 1.")
    half = int(np.ceil(3 / wanted_fpr - 1e-9))
    if count < 2 * half:
        raise InputError(
            f"a false-positive rate of {wanted_fpr:g} needs {2 * half} benign prompts that the "
            f"guard is not fitted on, {half} to set the threshold and {half} to confirm it, and "
            f"there are {count}; give more benign prompts, or ask for a higher rate."
        )
