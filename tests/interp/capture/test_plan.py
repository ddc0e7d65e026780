"""The row plan, and files that are whole or not there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import tiny
from safetensors import SafetensorError

import interp
from interp.capture.recorders import FirstKeyMass
from interp.capture.run import capture
from interp.data.row_plan import RowPlan
from interp.data.rows import Row, id_rows
from interp.errors import InputError
from interp.resume import files as planning
from interp.resume.files import load_tensors, replacing, save_tensors, write_atomically


def rows_of(*lengths: int) -> list[Row]:
    return [Row(index, (3,) * length, "ids") for index, length in enumerate(lengths)]


@pytest.mark.parametrize("budget", [1, 30, 64, 100, 10_000])
def test_every_row_runs_once_within_the_budget(budget: int) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 50, 200).tolist()
    rows = rows_of(*lengths)
    plan = RowPlan.make(rows, budget)
    assert sorted(index for batch in plan.batches for index in batch) == list(range(200))
    assert plan.tokens == sum(lengths)
    sizes = [len(batch) * max(lengths[i] for i in batch) for batch in plan.batches]
    assert plan.largest_batch == max(sizes) and len(plan) == len(sizes)
    for batch, size in zip(plan.batches, sizes, strict=True):
        assert size <= budget or len(batch) == 1
        assert 1 - sum(lengths[i] for i in batch) / size <= 0.1 + 1e-9


def test_the_plan_does_not_depend_on_the_order_of_rows() -> None:
    rows = rows_of(9, 4, 9, 30, 4)
    assert RowPlan.make(rows, 40) == RowPlan.make(rows[::-1], 40)


def test_short_rows_first_and_a_long_row_by_itself() -> None:
    plan = RowPlan.make(rows_of(9, 4, 9, 30, 4), 18)
    assert plan.batches == ((1, 4), (0, 2), (3,))
    assert (plan.tokens, plan.largest_batch) == (56, 30)


# --- files -------------------------------------------------------------------------------------


def _no_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _half(arrays: Any, name: Any, notes: Any) -> None:
    """A writer that gets half of its bytes out before the disk is full."""
    Path(name).write_bytes(b"half")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def _save(path: Path) -> None:
    save_tensors(path, {"a": np.arange(3)})


def _write(path: Path) -> None:
    write_atomically(path, b"new")


def test_files_come_back_as_written(tmp_path: Path) -> None:
    _save(tmp_path / "deep" / "x.safetensors")
    assert load_tensors(tmp_path / "deep" / "x.safetensors")["a"].tolist() == [0, 1, 2]
    _write(tmp_path / "deep" / "y")
    assert (tmp_path / "deep" / "y").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "deep")) == ["x.safetensors", "y"]
    # Whoever may read a plain file may read ours.
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "deep" / "y").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("write", [_save, _write])
@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_full_disk_leaves_what_was_there(
    write: Callable[[Path], None], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    if where == "rename":
        monkeypatch.setattr(os, "replace", _no_space)
    elif write is _save:
        monkeypatch.setattr(planning, "save_file", _half)
    else:
        monkeypatch.setattr(Path, "write_bytes", _no_space)
    with pytest.raises(InputError, match=r"x cannot be written \(.*No space left on device"):
        write(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("write", [_save, _write])
def test_a_folder_that_cannot_be_made_is_named(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "x")


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 40])
def test_a_damaged_shard_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors is damaged"):
        load_tensors(path)
    with pytest.raises(InputError, match=r"y\.safetensors is damaged"):
        load_tensors(tmp_path / "y.safetensors")


@pytest.mark.parametrize("broken", ["save_file", "replace"])
def test_a_disk_that_fills_up_in_the_middle_keeps_the_shards_before(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = interp.load(tiny("llama"))
    rows = id_rows(checkpoint, {"ids": [list(range(3, 3 + n)) for n in (5, 9, 14, 20)]})
    whole = FirstKeyMass()
    capture(checkpoint, rows, [whole], batch_tokens=20)
    owner: Any = planning if broken == "save_file" else os
    own = getattr(owner, broken)
    left = [2 if broken == "save_file" else 3]  # what the run is is renamed too

    def fill_up(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            _no_space()
        own(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, broken, fill_up)
        with pytest.raises(InputError, match=r"batch-000002\.safetensors cannot be written"):
            capture(checkpoint, rows, [FirstKeyMass()], batch_tokens=20, workdir=tmp_path)
    shards = ["batch-000000.safetensors", "batch-000001.safetensors"]
    (folder,) = tmp_path.iterdir()
    assert sorted(os.listdir(folder)) == [*shards, "run.json"]
    again = FirstKeyMass()
    summary = capture(checkpoint, rows, [again], batch_tokens=20, workdir=tmp_path)
    assert summary.resumed == 2
    np.testing.assert_array_equal(again.result().stack("alpha"), whole.result().stack("alpha"))
