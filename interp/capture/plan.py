"""The work folder of a capture, which lets a stopped run go on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from interp.capture.recorder import Recorder
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.resume.files import load_tensors, save_tensors, write_atomically

FORMAT_VERSION = 1


class Workdir:
    """A folder with `plan.json` and one shard for each finished batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(
        cls,
        folder: Path,
        checkpoint: LoadedModel,
        rows: Sequence[Row],
        recorders: Sequence[Recorder],
        plan: RowPlan,
        attention: str = "auto",
    ) -> "Workdir":
        """Begin a work folder, or go on with one of the same run.

        Raises:
            InputError: the folder belongs to another run.
        """
        described = {
            "format_version": FORMAT_VERSION,
            "fingerprint": checkpoint.fingerprint,
            "attention": attention,
            "rows": _rows_hash(rows),
            "recorders": [recorder.describe() for recorder in recorders],
            "plan": json.loads(json.dumps(asdict(plan))),
        }
        path = folder / "plan.json"
        if path.exists():
            if _read_plan(path) != described:
                raise InputError(
                    f"{folder} holds a capture of another model, or with other rows, recorders, "
                    "batches or attention; give a new folder, or remove it."
                )
        else:
            write_atomically(path, json.dumps(described, indent=1).encode())
        return cls(folder)

    def _shard(self, number: int) -> Path:
        return self.folder / f"batch-{number:06d}.safetensors"

    def save(self, number: int, recorders: Sequence[Recorder]) -> None:
        """Write the shard of one batch."""
        arrays = {
            f"{index}/{key}": np.ascontiguousarray(array)
            for index, recorder in enumerate(recorders)
            for key, array in recorder.state().items()
        }
        save_tensors(self._shard(number), arrays)

    def load(self, number: int, recorders: Sequence[Recorder]) -> bool:
        """Feed the recorders from a finished batch; False if it is not there.

        Raises:
            InputError: the shard is damaged.
        """
        path = self._shard(number)
        if not path.exists():
            return False
        arrays = load_tensors(path)
        for index, recorder in enumerate(recorders):
            prefix = f"{index}/"
            state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            recorder.load_state(state)
        return True


def _rows_hash(rows: Sequence[Row]) -> str:
    text = ";".join(f"{row.index}:{row.ids}:{sorted(row.segments.items())}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_plan(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged; remove its folder and start again.") from error
