"""What recorders share: nothing infinite gets in, and merging is exact."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import tiny
from recording import MAKERS, applying, rows_of, same

import interp
from interp.attention.kernels import AttentionStatistics
from interp.capture.recorder import LayerBatch, Recorder
from interp.capture.recorders import (
    ChosenKeyMass,
    ColumnMass,
    FirstKeyMass,
    GateScores,
    LearnedSinkShare,
    ResidualNorms,
    RowEntropy,
)
from interp.capture.run import capture
from interp.data.rows import id_rows
from interp.errors import InputError, NumericalError


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_its_row(
    make: Callable[[], Recorder], value: float
) -> None:
    family = {LearnedSinkShare: "gpt_oss", GateScores: "qwen3_5"}.get(make, "llama")
    model = tiny(family)
    with torch.no_grad():
        model.get_input_embeddings().weight[96] = value
    checkpoint = interp.load(model)
    fine = list(range(3, 13))
    rows = id_rows(checkpoint, {"ids": [fine, [*fine[:6], 96, *fine[7:]], fine]})
    with pytest.raises(NumericalError, match="NaN or infinite in row 1"):
        capture(checkpoint, rows, [make()])


def test_the_layer_that_breaks_is_named() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[3, 4] = float("nan")
    checkpoint = interp.load(model)
    with pytest.raises(NumericalError, match=r"first of layer 2 is NaN or infinite in row 0"):
        capture(checkpoint, rows_of(checkpoint, (9, 9)), [ResidualNorms()])
    with pytest.raises(NumericalError, match=r"of layer 3 is NaN or infinite in row 0"):
        capture(checkpoint, rows_of(checkpoint, (9, 9)), [ColumnMass()])


def test_eager_weights_that_are_not_finite_are_refused() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[96] = float("nan")
    checkpoint = interp.load(model)
    rows = id_rows(checkpoint, {"ids": [[3, 4, 5], [6, 96, 7]]})
    for make in (FirstKeyMass, ColumnMass, RowEntropy):
        with pytest.raises(NumericalError, match="in row 1"):
            capture(checkpoint, rows, [make()], attention="eager")


@pytest.mark.parametrize("family", ["llama", "qwen3_5", "gpt_oss"])
def test_two_halves_merge_to_the_whole_bit_for_bit(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    # Equal lengths and a budget of two rows: the halves fall on whole batches.
    rows = rows_of(checkpoint, (10,) * 8).rows
    whole, left, right = (applying(checkpoint) for _ in range(3))
    capture(checkpoint, rows, whole, batch_tokens=20)
    capture(checkpoint, rows[:4], left, batch_tokens=20)
    capture(checkpoint, rows[4:], right, batch_tokens=20)
    for mine, other in zip(right, left, strict=True):
        mine.merge(other)
    same(right, whole)


def test_a_merge_of_unlike_recorders_or_of_one_row_twice_is_refused() -> None:
    checkpoint = interp.load(tiny("llama"))
    recorder = ChosenKeyMass((0, 1))
    capture(checkpoint, rows_of(checkpoint), [recorder])
    for other in (ChosenKeyMass((0, 2)), FirstKeyMass()):
        with pytest.raises(InputError, match="cannot be merged"):
            recorder.merge(other)
    recorder.merge(recorder)
    with pytest.raises(InputError, match="seen a row twice"):
        recorder.result()
    with pytest.raises(InputError, match="FirstKeyMass has recorded nothing"):
        FirstKeyMass().result()


# --- the parts ---------------------------------------------------------------------------------


def _batch(tensors: dict[str, torch.Tensor], layer: int | None = 0) -> LayerBatch:
    """Two rows, of 3 and 2 tokens."""
    real = torch.tensor([[True, True, True], [True, True, False]])
    return LayerBatch(interp.load(tiny("llama")), layer, torch.tensor([4, 2]), real, tensors)


def test_columns_that_hide_a_broken_score_are_refused() -> None:
    """The column kernel of GPUs gives 0 for NaN, which it also meets at keys that nobody sees."""
    lse = torch.zeros(2, 4, 3)
    lse[1, 0, 1] = float("nan")
    empty = torch.zeros(2, 4, 3)
    broken = AttentionStatistics(lse=lse, column=empty, column_entropy=empty)
    with pytest.raises(NumericalError, match="attention of layer 0 is NaN or infinite in row 2"):
        ColumnMass().update(replace(_batch({}), statistics=broken))


def test_a_mean_counts_real_tokens_alone() -> None:
    values = torch.tensor([[[1.0, 2.0, 6.0]], [[3.0, 5.0, float("nan")]]])
    batch = _batch({})
    assert batch.mean(values).tolist() == [[3.0], [4.0]]
    assert batch.mean(values, 1).tolist() == [[4.0], [5.0]]
    assert batch.mean(values[:, 0], 2).tolist() == [6.0, 0.0]
    assert batch.lengths.tolist() == [3, 2]


def test_what_a_batch_lacks_is_named() -> None:
    batch = _batch({"v": torch.zeros(2, 3, 2, 8)})
    with pytest.raises(InputError, match="site 'z' of layer 0 was not captured; captured are v"):
        batch.site("z")
    with pytest.raises(InputError, match="attention statistics of layer 0 were not demanded"):
        batch.mass_on(0)
    with pytest.raises(InputError, match="belongs to no layer"):
        _ = _batch({}, None).layer_index


def test_records_are_sorted_by_row_and_named_by_layer() -> None:
    recorder = FirstKeyMass()
    for layer in (1, 0):
        recorder.keep(_batch({}, layer), "alpha", torch.tensor([4.0, 2.0]) + layer)
    records = recorder.result()
    assert records.rows.tolist() == [2, 4]
    assert records.layers("alpha") == [0, 1]
    assert records.stack("alpha").tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert records.at("alpha", 1).tolist() == [3.0, 5.0]
    assert "alpha" in records and "beta" not in records
    with pytest.raises(InputError, match="no quantity 'beta' was recorded; recorded are alpha"):
        records.at("beta", 0)


def test_only_what_is_marked_may_be_missing() -> None:
    recorder, batch = FirstKeyMass(), _batch({})
    values = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    with pytest.raises(NumericalError, match="alpha of layer 0 is NaN or infinite in row 4"):
        recorder.keep(batch, "alpha", values)
    with pytest.raises(NumericalError, match="in row 4"):
        recorder.keep(batch, "alpha", values, missing=torch.tensor([[True, False], [False, True]]))
    recorder.keep(batch, "alpha", values, missing=torch.tensor([[False, True], [True, False]]))
    kept = recorder.result().at("alpha", 0)
    np.testing.assert_array_equal(kept, [[np.nan, 3.0], [1.0, np.nan]])


def test_row_arrays_of_unequal_length_are_padded() -> None:
    recorder = FirstKeyMass()
    one, two = _batch({}), _batch({})
    two.rows[:] = torch.tensor([1, 3])
    recorder.keep(one, "alpha", torch.ones(2, 3))
    recorder.keep(two, "alpha", torch.ones(2, 2))
    kept = recorder.result().at("alpha", 0)
    assert np.isnan(kept).tolist() == [[False, False, True], [False] * 3] * 2


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_goes_round(make: Callable[[], Recorder]) -> None:
    checkpoint = interp.load(tiny("gpt_oss" if make is LearnedSinkShare else "llama"))
    recorder = make()
    if not (recorder.needs(checkpoint).sites or recorder.needs(checkpoint).demands):
        checkpoint = interp.load(tiny("lfm3"))
    capture(checkpoint, rows_of(checkpoint), [recorder], batch_tokens=45)
    twin = recorder.fresh()
    assert twin.describe() == recorder.describe() and not twin.state()
    twin.load_state(recorder.state())
    same([twin], [recorder])
