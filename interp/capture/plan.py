"""The work folder of a capture, which lets a stopped run go on."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from interp.capture.recorder import Recorder
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.resume.files import load_tensors, save_tensors
from interp.resume.run_folder import run_folder

log = logging.getLogger("mechguard.capture")

FORMAT_VERSION = 2


class Workdir:
    """A folder with what the run is and one shard for each finished batch."""

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

        What another run has left in the folder is removed, and what differs is logged.

        Raises:
            InputError: the folder cannot be made.
        """
        described = {
            "format_version": FORMAT_VERSION,
            "model": checkpoint.measured_on,
            "attention": attention,
            "rows": _rows_hash(rows),
            "recorders": [recorder.describe() for recorder in recorders],
            "batches": asdict(plan),
            "libraries": {"torch": str(torch.__version__), "transformers": version("transformers")},
        }
        return cls(run_folder(folder, "capture", described, alone=True))

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

        A damaged shard is as good as none, and a warning says so.
        """
        path = self._shard(number)
        if not path.exists():
            return False
        try:
            arrays = load_tensors(path)
        except InputError as error:
            log.warning("%s", error)
            return False
        for index, recorder in enumerate(recorders):
            prefix = f"{index}/"
            state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            recorder.load_state(state)
        return True


def _rows_hash(rows: Sequence[Row]) -> str:
    text = ";".join(f"{row.index}:{row.ids}:{sorted(row.segments.items())}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()
