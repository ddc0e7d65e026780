"""Thresholds on benign prompts, and the refusal to set one that is no use."""

import numpy as np
import pytest

from interp.errors import CheckError, InputError, NumericalError
from steering.training.calibration import NoSeparationError, calibrate


def _normal(mean: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


def test_overlapping_classes_get_the_lowest_threshold_that_keeps_the_rate() -> None:
    setting = _normal(0, 1000, 0)
    made = calibrate(setting, _normal(0, 1000, 1), {"harmful": _normal(3, 200, 2)}, 0.01, 0.0)
    assert (setting > made.threshold).mean() <= 0.01 < (setting >= made.threshold).mean()
    assert made.set_on == 1000 and 0 < made.fpr < 0.03
    assert made.tpr["harmful"] > 0.6 and made.auroc["harmful"] > 0.95


def test_where_the_target_lies_higher_the_threshold_leaves_room_on_both_sides() -> None:
    setting, benign = np.linspace(0, 1, 400), np.linspace(0, 2, 50)
    harmful = {"harmful": np.full(20, 1.5), "jailbroken": np.linspace(8, 9, 20)}
    made = calibrate(setting, benign, harmful, 0.01)
    lowest = np.sort(setting)[-5]  # four of 400 may lie above it
    assert made.threshold == pytest.approx((lowest + 8.02) / 2)
    assert made.tpr == {"harmful": 0.0, "jailbroken": 1.0} and made.fpr == 0.0
    # A stray benign prompt within the rate does not move it.
    stray = calibrate(np.append(setting, 8.5), benign, harmful, 0.01)
    assert stray.threshold == pytest.approx(made.threshold, abs=0.01)


def test_classes_that_do_not_separate_are_refused_in_a_sentence() -> None:
    with pytest.raises(CheckError, match=r"opens for \d.\d% of the harmful prompts, and 95.0% are"):
        calibrate(_normal(0, 400, 0), _normal(0, 100, 1), {"harmful": _normal(0, 100, 2)}, 0.01)
    weak = calibrate(
        _normal(0, 400, 0), _normal(0, 100, 1), {"harmful": _normal(0, 100, 2)}, 0.01, 0.0
    )
    assert weak.tpr["harmful"] < 0.1


def test_the_refusal_names_the_rate_that_would_do() -> None:
    setting, benign = _normal(0, 400, 0), _normal(0, 400, 1)
    harmful = {"harmful": _normal(2.5, 100, 2)}
    with pytest.raises(NoSeparationError, match=r"at --fpr 0\.\d+ one does") as refused:
        calibrate(setting, benign, harmful, 0.01)
    rate = refused.value.rate
    assert rate is not None and calibrate(setting, benign, harmful, rate).opens >= 0.95
    with pytest.raises(NoSeparationError):
        calibrate(setting, benign, harmful, rate * 0.8)
    with pytest.raises(NoSeparationError, match="give other prompts") as hopeless:
        calibrate(setting, benign, {"harmful": _normal(-2, 100, 2)}, 0.01)
    assert hopeless.value.rate is None


def test_too_few_benign_prompts_and_nan_are_told() -> None:
    with pytest.raises(InputError, match="needs at least 300 negatives"):
        calibrate(np.zeros(50), np.zeros(10), {"harmful": np.ones(10)}, 0.01)
    with pytest.raises(NumericalError, match="harmful prompts are NaN"):
        calibrate(np.zeros(400), np.zeros(10), {"harmful": np.full(10, np.nan)}, 0.01)
