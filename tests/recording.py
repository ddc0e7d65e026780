"""All recorders at once, and what they recorded held against each other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from interp.capture.recorder import Recorder
from interp.capture.recorders import (
    ChosenKeyMass,
    ColumnMass,
    FirstKeyMass,
    GateScores,
    HeadOutputs,
    KeyNorms,
    LearnedSinkShare,
    LogitGap,
    MassiveActivations,
    MedianMagnitude,
    ResidualNorms,
    RowEntropy,
    ValueNorms,
)
from interp.checkpoint import Checkpoint
from interp.data.rows import Rows, id_rows

MAKERS: list[Callable[[], Recorder]] = [
    FirstKeyMass,
    lambda: ChosenKeyMass((0, 3, 7)),
    ColumnMass,
    RowEntropy,
    LearnedSinkShare,
    LogitGap,
    ValueNorms,
    KeyNorms,
    HeadOutputs,
    GateScores,
    ResidualNorms,
    MassiveActivations,
    MedianMagnitude,
]
LENGTHS = (12, 5, 20, 9, 10, 20, 10, 19)


def rows_of(checkpoint: Checkpoint, lengths: tuple[int, ...] = LENGTHS) -> Rows:
    random = np.random.default_rng(5)
    return id_rows(checkpoint, {"ids": [random.integers(3, 97, n).tolist() for n in lengths]})


def applying(checkpoint: Checkpoint) -> list[Any]:
    """Fresh recorders, without those that have nothing to see in this model."""
    recorders = [make() for make in MAKERS]
    needs = [recorder.needs(checkpoint) for recorder in recorders]
    return [r for r, need in zip(recorders, needs, strict=True) if need.sites or need.demands]


def results(recorders: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Everything that was recorded, by recorder, quantity and layer."""
    found: dict[str, Any] = {}
    for recorder in recorders:
        result, kind = recorder.result(), type(recorder).__name__
        if isinstance(result, dict):
            found |= {f"{kind}/{layer}": np.array(value) for layer, value in result.items()}
            continue
        found[f"{kind}/rows"] = result.rows
        for name, layers in result.by_layer.items():
            found |= {f"{kind}/{name}/{layer}": values for layer, values in layers.items()}
    return found


def same(one: list[Any], other: list[Any]) -> None:
    """Bit for bit."""
    first, second = results(one), results(other)
    assert set(first) == set(second)
    for key, values in first.items():
        assert values.dtype == second[key].dtype, key
        np.testing.assert_array_equal(values, second[key], err_msg=key)
