"""Activations on disk: sharded safetensors with their provenance beside them."""

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.capture.recorder import LayerBatch, Needs, Recorder
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from interp.resume.files import replacing, write_atomically

FORMAT_VERSION = 1


class Activations(Recorder):
    """Streams a site's activations at one segment of every row to disk.

    One shard a batch: `values` [tokens, ...] in the model's own dtype, `rows` and `positions`
    [tokens]. `index.json` says which model, site and tokenizer they come from; it is written by
    `result`, so a folder without it is unfinished.

    Args:
        site: where.
        folder: created if need be; shards of the same rows are overwritten.
        segment: `all`, `last` (the last token), or a segment that the rows name (`bos`, `text`).
    """

    def __init__(self, site: Site, folder: Path, segment: str = "text") -> None:
        self.site, self.folder, self.segment = site, Path(folder), segment
        self._shards: dict[str, int] = {}
        self._model: dict[str, Any] = {}

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """The site."""
        checkpoint.require(self.site)
        self._model = {
            "model": checkpoint.name,
            "revision": checkpoint.revision,
            "fingerprint": checkpoint.fingerprint,
            "tokenizer_hash": checkpoint.tokenizer_hash,
            "dtype": str(checkpoint.dtype).removeprefix("torch."),
        }
        return Needs(frozenset({self.site}))

    def update(self, batch: LayerBatch) -> None:
        """Write one shard.

        Raises:
            InputError: a row lacks the segment, or the disk is full.
            NumericalError: NaN or infinity in the activations.
        """
        values = batch.tensors[self.site.name]
        picked: list[Tensor] = []
        rows: list[int] = []
        positions: list[int] = []
        for number, row in enumerate(batch.source):
            start, stop = _span(row, self.segment)
            part = values[number, start:stop]
            if not bool(torch.isfinite(part).all()):
                raise NumericalError(
                    f"{self.site.hook_name} is NaN or infinite in row {row.index}; load the model "
                    "in float32 or bfloat16, or leave that row out."
                )
            picked.append(part)
            rows += [row.index] * (stop - start)
            positions += range(start, stop)
        shard = {
            "values": torch.cat(picked).cpu().contiguous(),
            "rows": torch.tensor(rows),
            "positions": torch.tensor(positions),
        }
        first = batch.source[0].index
        self._write(f"{self.site.hook_name}-{self.segment}-{first:08d}.safetensors", shard)

    def _write(self, name: str, shard: dict[str, Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in shard.values())
        with replacing(self.folder / name) as temporary:
            free = shutil.disk_usage(self.folder).free
            if size > free:
                missing = f"{size / 1e6:.1f} MB needed, {free / 1e6:.1f} MB left"
                raise OSError(errno.ENOSPC, missing)
            save_file(shard, temporary)
        self._shards[name] = len(shard["rows"])

    def fresh(self) -> "Activations":
        """The same settings, no shard."""
        twin = type(self)(self.site, self.folder, self.segment)
        twin._model = self._model
        return twin

    def state(self) -> dict[str, NDArray[Any]]:
        """Names and sizes of the shards."""
        names = "\n".join(self._shards).encode()
        return {
            "names": np.frombuffer(names, dtype=np.uint8),
            "sizes": np.array(list(self._shards.values()), dtype=np.int64),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over shards that an earlier run has written.

        Raises:
            InputError: a shard is gone.
        """
        # A rank without batches has no names, and splitting nothing gives one empty name.
        names = state["names"].tobytes().decode().split("\n") if len(state["sizes"]) else []
        for name, size in zip(names, state["sizes"], strict=True):
            if not (self.folder / name).exists():
                raise InputError(
                    f"{self.folder / name} is gone, though the work folder says it was written; "
                    "remove the work folder and start again."
                )
            self._shards[name] = int(size)

    def result(self) -> "StoredActivations":
        """Close the folder with its index.

        Raises:
            InputError: nothing was captured, or the folder is that of another site or segment.
        """
        if not self._shards:
            raise InputError(f"no activations of {self.site.hook_name} were captured.")
        path = self.folder / "index.json"
        if path.exists():
            other = StoredActivations.open(self.folder).index
            if (other["site"], other["segment"]) != (self.site.hook_name, self.segment):
                raise InputError(
                    f"{self.folder} already holds {other['site']} at segment {other['segment']}; "
                    "give each site and segment a folder of its own."
                )
        index = {
            "format_version": FORMAT_VERSION,
            "kind": "activations",
            **self._model,
            "site": self.site.hook_name,
            "segment": self.segment,
            "shards": dict(sorted(self._shards.items())),
        }
        write_atomically(path, json.dumps(index, indent=1).encode())
        return StoredActivations(self.folder, index)


@dataclass(frozen=True)
class StoredActivations:
    """A closed folder of activations."""

    folder: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "StoredActivations":
        """Open a closed folder.

        Raises:
            InputError: it has no index, or one of another format.
        """
        path = Path(folder) / "index.json"
        try:
            index = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} has no readable index.json, so its capture did not finish."
            ) from error
        kind = index.get("kind") if isinstance(index, dict) else None
        if kind != "activations" or index.get("format_version") != FORMAT_VERSION:
            raise InputError(f"{path} is not an activation index of format {FORMAT_VERSION}.")
        return cls(Path(folder), index)

    def load(self, checkpoint: LoadedModel | None = None) -> dict[str, Tensor]:
        """All shards as `values`, `rows`, `positions`, sorted by row and position.

        Args:
            checkpoint: when given, the activations must be its own.

        Raises:
            InputError: they belong to another model, or a shard is damaged.
        """
        if checkpoint is not None and checkpoint.fingerprint != self.index["fingerprint"]:
            raise InputError(
                f"{self.folder} holds activations of {self.index['model']} "
                f"({self.index['fingerprint']}), not of {checkpoint.name} "
                f"({checkpoint.fingerprint})."
            )
        try:
            shards = [load_file(self.folder / name) for name in self.index["shards"]]
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"a shard of {self.folder} is missing or damaged ({error})."
            ) from error
        joined = {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}
        place = joined["rows"] * (int(joined["positions"].max()) + 1) + joined["positions"]
        order = torch.argsort(place)
        return {key: tensor[order] for key, tensor in joined.items()}


def _span(row: Row, segment: str) -> tuple[int, int]:
    if segment == "all":
        return 0, len(row)
    if segment == "last":
        return len(row) - 1, len(row)
    if segment not in row.segments:
        raise InputError(
            f"row {row.index} has no segment {segment!r}; it has all, last, "
            f"{', '.join(row.segments)}."
        )
    return row.segments[segment]
