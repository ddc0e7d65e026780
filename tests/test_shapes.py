"""Under test every call of a function that annotates arrays has its shapes checked."""

import numpy as np
import pytest
import torch
from conftest import shaped_modules
from jaxtyping import TypeCheckError

from analyses.refusal.measuring.separation import within_strata
from interp.statistics.auroc import area
from probes.statistics.metrics import threshold_for_fpr
from steering.runtime.operators import prepared


def test_a_wrong_shape_is_an_error_in_every_package() -> None:
    square = np.zeros((2, 2))
    for call in (
        lambda: area(square, square),
        lambda: threshold_for_fpr(square, 0.01),
        lambda: prepared("add", torch.zeros(2, 2)),
        lambda: within_strata(square, np.zeros(2, bool), np.zeros(2)),
    ):
        with pytest.raises(TypeCheckError, match="typechecking parameter"):
            call()


def test_modules_with_shapes_are_named_as_they_are_imported() -> None:
    names = shaped_modules()
    assert {
        "interp.capture.heads",
        "probes.statistics.metrics",
        "steering.runtime.operators",
    } <= set(names)
    assert not any(name.endswith("__init__") for name in names)
