"""Activations on disk: sharded safetensors with their provenance beside them."""

import errno
import re
import shutil
from collections.abc import Callable, Mapping
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
from interp.errors import InputError, NumericalError, first_line
from interp.fields import COUNT, NAME, TEXT, Field, require_fields
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from interp.resume.files import replacing, write_atomically
from interp.resume.sealed import (
    acknowledge,
    file_sha256,
    is_checksum,
    read_sealed,
    sealed_json,
    warn_unsealed,
)

FORMAT_VERSION = 1
_NAME = re.compile(r"[\w.-]+\.safetensors")


def _by_shard(says: str, holds: Callable[[Any], bool]) -> Field:
    def fits(value: Any) -> bool:
        named = isinstance(value, dict) and bool(value) and all(map(_NAME.fullmatch, value))
        return named and all(map(holds, value.values()))

    return Field(f"an object of names of files in the same folder, each with {says}", fits)


_FIELDS = {
    **{name: TEXT.optional() for name in ("model", "fingerprint")},
    **{name: NAME.optional() for name in ("site", "segment")},
    "shards": _by_shard("its number of tokens", COUNT.holds),
    "checksums": _by_shard("its SHA-256", is_checksum).optional(),
}


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
        self._checksums: dict[str, str] = {}
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
            self._checksums[name] = file_sha256(temporary)
        self._shards[name] = len(shard["rows"])

    def fresh(self) -> "Activations":
        """The same settings, no shard."""
        twin = type(self)(self.site, self.folder, self.segment)
        twin._model = self._model
        return twin

    def state(self) -> dict[str, NDArray[Any]]:
        """Names, sizes and checksums of the shards."""
        names = "\n".join(self._shards).encode()
        sums = bytes.fromhex("".join(self._checksums[name] for name in self._shards))
        return {
            "names": np.frombuffer(names, dtype=np.uint8),
            "sizes": np.array(list(self._shards.values()), dtype=np.int64),
            "checksums": np.frombuffer(sums, dtype=np.uint8),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over shards that an earlier run has written.

        Raises:
            InputError: a shard is gone.
        """
        # A rank without batches has no names, and splitting nothing gives one empty name.
        names = state["names"].tobytes().decode().split("\n") if len(state["sizes"]) else []
        sums = state["checksums"].reshape(-1, 32) if "checksums" in state else [None] * len(names)
        for name, size, checksum in zip(names, state["sizes"], sums, strict=True):
            if not (self.folder / name).exists():
                raise InputError(
                    f"{self.folder / name} is gone, though the work folder says it was written; "
                    "remove the work folder and start again."
                )
            self._shards[name] = int(size)
            self._checksums[name] = (
                file_sha256(self.folder / name) if checksum is None else checksum.tobytes().hex()
            )

    def result(self) -> "StoredActivations":
        """Close the folder with its index, and remove shards of the site that are not in it.

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
            "checksums": dict(sorted(self._checksums.items())),
        }
        write_atomically(path, sealed_json(index))
        # What a run that was stopped has left of other batches belongs to nobody.
        for left in self.folder.glob(f"{self.site.hook_name}-{self.segment}-*.safetensors"):
            if left.name not in self._shards:
                left.unlink(missing_ok=True)
        return StoredActivations(self.folder, index)


@dataclass(frozen=True)
class StoredActivations:
    """A closed folder of activations.

    Attributes:
        folder: where it is.
        index: what `index.json` says, without its own checksum.
        sealed: whether every file has a checksum.
    """

    folder: Path
    index: dict[str, Any]
    sealed: bool = True

    @classmethod
    def open(cls, folder: Path) -> "StoredActivations":
        """Open a closed folder.

        Raises:
            InputError: it has no index, a damaged one, or one of another format.
        """
        path = Path(folder) / "index.json"
        try:
            index, sealed = read_sealed(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} has no readable index.json ({first_line(error)}), so its capture did "
                "not finish, or it was damaged; capture again."
            ) from error
        if index.get("kind") != "activations" or index.get("format_version") != FORMAT_VERSION:
            raise InputError(f"{path} is not an activation index of format {FORMAT_VERSION}.")
        try:
            require_fields(index, _FIELDS)
            if ("checksums" in index) != sealed:
                raise ValueError("it has checksums of its shards and none of its own, or no others")
            if set(index.get("checksums", index["shards"])) != set(index["shards"]):
                raise ValueError("its checksums are not those of its shards")
        except ValueError as error:
            raise InputError(f"{path} is no complete index: {error}; capture again.") from error
        if not sealed:
            warn_unsealed(path.parent)
        return cls(Path(folder), index, sealed)

    @classmethod
    def seal(cls, folder: Path) -> bool:
        """Write checksums into a folder of before there were any; its shards are checked first.

        Returns:
            Whether anything was written; False if all checksums were there.

        Raises:
            InputError: the index or a shard is damaged, or the index cannot be written.
        """
        acknowledge(Path(folder))
        found = cls.open(folder)
        found.load()
        if found.sealed:
            return False
        sums = {name: file_sha256(found.folder / name) for name in found.index["shards"]}
        content = sealed_json({**found.index, "checksums": sums})
        write_atomically(found.folder / "index.json", content)
        return True

    def load(self, checkpoint: LoadedModel | None = None) -> dict[str, Tensor]:
        """All shards as `values`, `rows`, `positions`, sorted by row and position.

        Args:
            checkpoint: when given, the activations must be its own.

        Raises:
            InputError: they belong to another model, or a shard is damaged.
        """
        made = self.index.get("fingerprint")
        if checkpoint is not None and checkpoint.fingerprint != made:
            raise InputError(
                f"{self.folder} holds activations of {self.index.get('model')} ({made}), "
                f"not of {checkpoint.name} ({checkpoint.fingerprint})."
            )
        try:
            shards = [self._shard(name) for name in self.index["shards"]]
            joined = {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise InputError(
                f"a shard of {self.folder} is missing or damaged ({first_line(error)}); capture "
                "again, or copy the folder again."
            ) from error
        place = joined["rows"] * (int(joined["positions"].max()) + 1) + joined["positions"]
        order = torch.argsort(place)
        return {key: tensor[order] for key, tensor in joined.items()}

    def _shard(self, name: str) -> dict[str, Tensor]:
        path = self.folder / name
        wanted = self.index.get("checksums", {}).get(name)
        if wanted is not None and file_sha256(path) != wanted:
            raise ValueError(f"the checksum of {name} does not match")
        shard = load_file(path)
        if set(shard) != {"values", "rows", "positions"}:
            raise ValueError(f"{name} does not hold values, rows and positions")
        count = self.index["shards"][name]
        for key in ("rows", "positions"):
            numbers = shard[key]
            if (
                numbers.shape != (count,)
                or numbers.dtype != torch.int64
                or bool((numbers < 0).any())
            ):
                raise ValueError(f"{key} of {name} are not {count} integers from 0 on")
        values = shard["values"]
        if values.ndim < 2 or len(values) != count or not values.is_floating_point():
            raise ValueError(f"{name} does not hold the values of {count} tokens")
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"values of {name} are NaN or infinite")
        return shard


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
