"""Thresholds on benign prompts, and the refusal to set one that is no use."""

import numpy as np
import pytest

from interp.errors import CheckError, InputError, NumericalError
from steering.calibration import calibrate


def _normal(mean: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


def test_overlapping_classes_keep_the_rate_and_no_better_threshold_exists() -> None:
    setting, target = _normal(0, 1000, 0), _normal(3, 200, 2)
    made = calibrate(setting, _normal(0, 1000, 1), {"harmful": target}, 0.01, 0.0)
    lowest = np.sort(setting)[-11]  # ten of a thousand may lie above it
    assert made.threshold >= lowest and (setting > made.threshold).mean() <= 0.01

    def gain(threshold: float) -> float:
        return float((target > threshold).mean() - (setting > threshold).mean())

    allowed = [t for t in (*setting, *target) if t >= lowest]
    assert gain(made.threshold) == pytest.approx(max(map(gain, allowed)))
    assert made.set_on == 1000 and 0 < made.fpr < 0.03
    assert made.tpr["harmful"] > 0.7 and made.auroc["harmful"] > 0.95


def test_a_gap_is_split_and_costs_no_prompt_of_the_target() -> None:
    setting, benign = np.linspace(0, 1, 400), np.linspace(0, 2, 50)
    harmful = {"harmful": np.full(20, 1.5), "jailbroken": np.linspace(8, 9, 20)}
    made = calibrate(setting, benign, harmful, 0.01)
    # Half way from the highest score that it is set on to the lowest jailbroken one.
    assert made.threshold == pytest.approx((1 + 8) / 2)
    assert made.tpr == {"harmful": 0.0, "jailbroken": 1.0} and made.fpr == 0.0


def test_a_stray_benign_prompt_does_not_cost_prompts_of_the_target() -> None:
    setting = np.append(np.linspace(0, 1, 399), 8.5)  # one of 400 lies among the target
    made = calibrate(setting, setting, {"harmful": np.linspace(5, 9, 21)}, 0.01)
    assert made.threshold == pytest.approx((1 + 5) / 2) and made.tpr["harmful"] == 1.0


def test_classes_that_do_not_separate_are_refused_in_a_sentence() -> None:
    with pytest.raises(CheckError, match=r"opens for \d% of the harmful prompts, and 90% are"):
        calibrate(_normal(0, 400, 0), _normal(0, 100, 1), {"harmful": _normal(0, 100, 2)}, 0.01)
    weak = calibrate(
        _normal(0, 400, 0), _normal(0, 100, 1), {"harmful": _normal(0, 100, 2)}, 0.01, 0.0
    )
    assert weak.tpr["harmful"] < 0.1


def test_too_few_benign_prompts_and_nan_are_told() -> None:
    with pytest.raises(InputError, match="needs at least 300 negatives"):
        calibrate(np.zeros(50), np.zeros(10), {"harmful": np.ones(10)}, 0.01)
    with pytest.raises(NumericalError, match="harmful prompts are NaN"):
        calibrate(np.zeros(400), np.zeros(10), {"harmful": np.full(10, np.nan)}, 0.01)
