"""Where a gate opens: a threshold on benign prompts, and a refusal to set one that is no use."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.errors import CheckError, NumericalError
from interp.statistics.intervals import Interval
from probes.statistics.metrics import auroc, operating_point, threshold_for_fpr

LEAST_TPR = 0.95
_MOST_FPR = 0.5  # above which a rate is no advice
_MISSED = 0.02  # share of the target that a threshold may miss at the most


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it does on validation prompts.

    Attributes:
        threshold: a gate opens above it.
        wanted_fpr: share of benign prompts that may be above it.
        set_on: number of benign prompts that it was set on.
        fpr: share of the validation's benign prompts above it, on which it was not set.
        fpr_interval: Wilson's, at 95 %.
        tpr: share above it of each kind of harmful prompt; it was chosen with the target's.
        auroc: of each kind against the benign ones.
        target: the kind that it is to open for.
    """

    threshold: float
    wanted_fpr: float
    set_on: int
    fpr: float
    fpr_interval: Interval
    tpr: dict[str, float]
    auroc: dict[str, float]
    target: str

    @property
    def opens(self) -> float:
        """Share of the target above the threshold."""
        return self.tpr[self.target]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "fpr_interval": list(self.fpr_interval)}


class NoSeparationError(CheckError):
    """A gate does not open for enough of its target at the wanted rate.

    Attributes:
        rate: at which it would, in two digits; None if there is none up to one half.
    """

    def __init__(self, told: str, rate: float | None) -> None:
        super().__init__(told)
        self.rate = rate


def calibrate(
    setting: Float[np.ndarray, " n"],
    benign: Float[np.ndarray, " m"],
    harmful: Mapping[str, Float[np.ndarray, "..."]],
    fpr: float,
    least_tpr: float = LEAST_TPR,
) -> Calibration:
    """Set a threshold at a false-positive rate.

    It lies half way between the lowest that keeps the rate among `setting` and the highest that
    all but a fiftieth of the target exceed, so that both have room for prompts that lie elsewhere;
    where the target is no higher, at the lowest. The target are jailbroken prompts, or harmful ones
    if there are none: prompts that the model refuses by itself need no gate that opens.

    Args:
        setting: scores of benign prompts that nothing was fitted or chosen on.
        benign: scores of the validation's benign prompts.
        harmful: scores of its harmful prompts, by kind.
        fpr: wanted rate.
        least_tpr: share of each kind that must lie above the threshold.

    Raises:
        InputError: too few benign prompts, or a rate outside of (0, 1).
        NoSeparationError: the target does not separate from benign prompts at this rate.
        NumericalError: a score is not finite.
    """
    for name, scores in {"benign": benign, **harmful}.items():
        if not np.isfinite(scores).all():
            raise NumericalError(f"the gate's scores of {name} prompts are NaN or infinite.")
    target = "jailbroken" if "jailbroken" in harmful else next(iter(harmful))
    lowest = threshold_for_fpr(setting, fpr)
    highest = float(np.quantile(harmful[target], _MISSED))
    threshold = max(lowest, (lowest + highest) / 2)
    told, found = {}, {}
    for kind, scores in harmful.items():
        both = np.concatenate([scores, benign])
        told[kind] = auroc(both, np.arange(len(both)) < len(scores)).value
        found[kind] = float((scores > threshold).mean())
    point = operating_point(benign, np.zeros(len(benign), bool), threshold)
    made = Calibration(
        threshold, fpr, len(setting), point.fpr, point.fpr_interval, found, told, target
    )
    if made.opens < least_tpr:
        rate = _rate_for(setting, harmful[target], least_tpr)
        raise NoSeparationError(_told(made, least_tpr, rate), rate)
    return made


def _rate_for(
    setting: Float[np.ndarray, " n"], target: Float[np.ndarray, "..."], least_tpr: float
) -> float | None:
    """The lowest rate, of two digits, at which so many of the target are above the threshold."""
    needed = np.sort(target)[::-1][int(np.ceil(least_tpr * len(target) - 1e-9)) - 1]
    lowest = float((setting >= needed).mean())
    if not 0 < lowest <= _MOST_FPR:
        return None
    unit = 10 ** (np.floor(np.log10(lowest)) - 1)
    return float(f"{np.ceil(lowest / unit - 1e-9) * unit:.2g}")


def _told(made: Calibration, least_tpr: float, rate: float | None) -> str:
    area = made.auroc[made.target]
    advice = "give other prompts" if rate is None else f"at --fpr {rate:g} one does; allow that"
    return (
        f"at a false-positive rate of {made.wanted_fpr:g} the gate opens for {made.opens:.1%} "
        f"of the {made.target} prompts, and {least_tpr:.1%} are wanted: what it reads does not "
        f"tell them well enough from benign ones (AUROC {area:.3f}), so no threshold meets the "
        f"rate; {advice}, or lower --least-tpr to get the policy all the same."
    )
