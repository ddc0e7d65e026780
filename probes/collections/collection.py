"""Collections: activations of prompts on disk, with the labels they are probed for.

A folder with one activation folder a layer (`interp.store`), `rows.csv` (a line a prompt: index,
label, source, text, the last token that is kept, and every further column of the data), and
`collection.json` (site, layers, segment, data and model), which is written last: a folder without
it is unfinished. It holds the checksums of the others; those of the shards stand in `index.json`.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capture import ranks
from interp.capture.run import capture
from interp.capture.store import Activations, StoredActivations
from interp.checkpoint import Checkpoint
from interp.data.sources import csv_table
from interp.errors import InputError, first_line
from interp.fields import LAYER, NAME, POSITIVE, Field, list_of, require_fields
from interp.model.artifact_schemas import ORIGIN, require_place
from interp.model.artifacts import versions
from interp.model.origin import compared, origin
from interp.model.sites import Site
from interp.resume.files import write_atomically
from interp.resume.sealed import (
    acknowledge,
    file_sha256,
    is_checksum,
    read_sealed,
    sealed_json,
    warn_unsealed,
)
from probes.collections.plan import CollectionPlan

FORMAT_VERSION = 2
INDEX = "collection.json"
_ROWS, _UNFINISHED = "rows.csv", "unfinished"
_KEY = re.compile("[0-9a-f]{15,64}")
_FIELDS = {
    "site": NAME,
    "layers": list_of(LAYER, 1),
    "segment": NAME,
    "rows": POSITIVE,
    "tokens": POSITIVE,
    "origin": ORIGIN,
    "checksums": Field(
        "an object of SHA-256 sums",
        lambda v: isinstance(v, dict) and all(map(is_checksum, v.values())),
    ).optional(),
}


def collect(
    checkpoint: Checkpoint,
    plan: CollectionPlan,
    out: Path,
    *,
    data: str = "",
    data_sha256: str = "",
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> "Collection":
    """Run the model and keep what was planned.

    Under `torchrun` every rank takes its share of the batches. A stopped run goes on when it is
    called again with the same arguments; a finished one is opened and nothing is run.

    Args:
        checkpoint: what to run.
        plan: of `plan_collection` for the same checkpoint.
        out: folder of the collection.
        data: name of the data, for the record.
        data_sha256: of its file.
        batch_tokens: most tokens in a batch.
        progress: called with (rows done, rows in all).

    Raises:
        InputError: the folder holds another collection, or the disk is too small.
        NumericalError: an activation is NaN or infinite.
    """
    out = Path(out)
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": "collection",
        **plan.describe(),
        "data": {"name": data, "sha256": data_sha256},
        "origin": origin(checkpoint),
        "versions": versions(),
    }
    if (out / INDEX).exists():
        found = Collection.open(out)
        _require_same(found, meta)
        return found
    _require_space(out, plan.bytes)
    recorders = [
        Activations(site, out / _name(site.layer, site.name), plan.segment) for site in plan.sites
    ]
    with ranks.group() as group:
        capture(
            checkpoint,
            plan.rows,
            recorders,
            batch_tokens=batch_tokens,
            workdir=out / _UNFINISHED,
            progress=progress,
        )
        if group.rank == 0:
            for recorder in recorders:
                recorder.result()
            write_atomically(out / _ROWS, plan.table.to_csv(index=False).encode())
            _close(out, meta)
            shutil.rmtree(out / _UNFINISHED, ignore_errors=True)
        group.gather(None)  # no rank opens the folder before it is closed
    return Collection.open(out)


@dataclass(frozen=True)
class Collection:
    """A finished collection.

    Attributes:
        folder: where it is.
        meta: what `collection.json` says.
        table: a row a prompt; all columns are strings.
    """

    folder: Path
    meta: dict[str, Any]
    table: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> "Collection":
        """Open a finished collection.

        Raises:
            InputError: there is none, or one of another format.
        """
        folder = Path(folder)
        try:
            meta, sealed = read_sealed(folder / INDEX)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} has no readable {INDEX} ({first_line(error)}); give a folder that "
                "`mechguard collect` has finished, or run the same command again to finish it."
            ) from error
        if meta.get("kind") != "collection" or meta.get("format_version") != FORMAT_VERSION:
            raise InputError(f"{folder / INDEX} is not a collection of format {FORMAT_VERSION}.")
        try:
            _require_meta(meta, sealed)
        except (InputError, ValueError) as error:
            raise InputError(
                f"{folder / INDEX} is damaged: {first_line(error)}; collect again."
            ) from error
        if not sealed:
            warn_unsealed(folder)
            for name in _folders(meta):
                acknowledge(folder / name)  # the sentence above speaks for them
        _require_files(folder, meta)
        try:
            table = csv_table(folder / _ROWS)
        except (InputError, OSError, ValueError) as error:
            raise InputError(
                f"{folder / _ROWS} is missing or damaged ({first_line(error)}); collect again."
            ) from error
        if len(table) != meta["rows"]:
            raise InputError(
                f"{folder / _ROWS} has {len(table)} rows, and {meta['rows']} were collected; "
                "collect again, or put the file back as it was."
            )
        return cls(folder, meta, table)

    @classmethod
    def seal(cls, folder: Path) -> bool:
        """Write checksums into a collection of before there were any; it is checked first.

        Returns:
            Whether anything was written; False if all checksums were there.

        Raises:
            InputError: as for `open`, a shard is damaged, or a file cannot be written.
        """
        folder = Path(folder)
        acknowledge(folder)
        found = cls.open(folder)
        for layer in found.layers:
            found.tokens(layer)
        written = [StoredActivations.seal(folder / name) for name in _folders(found.meta)]
        if not any(written) and "checksums" in found.meta:
            return False
        _close(folder, found.meta)
        return True

    def __len__(self) -> int:
        return len(self.table)

    @property
    def layers(self) -> tuple[int | None, ...]:
        """Layers that were kept; (None,) for a site outside of the layers."""
        return tuple(self.meta["layers"])

    @property
    def site(self) -> str:
        """Which site."""
        return str(self.meta["site"])

    @property
    def segment(self) -> str:
        """Which tokens."""
        return str(self.meta["segment"])

    @property
    def one_token(self) -> bool:
        """Whether every prompt has exactly one token here."""
        return int(self.meta["tokens"]) == len(self)

    def column(self, name: str) -> np.ndarray:
        """A column of the table.

        Raises:
            InputError: there is none, or cells of it are empty.
        """
        if name not in self.table:
            raise InputError(
                f"{self.folder} has no column {name!r}; it has {', '.join(self.table.columns)}."
            )
        values = self.table[name].to_numpy(str)
        if empty := int((values == "").sum()):
            raise InputError(f"{empty} of {len(values)} cells of the column {name!r} are empty.")
        return np.asarray(values)

    def prompt_keys(self) -> Int[np.ndarray, " n"]:
        """A number for each prompt, equal for equal prompts."""
        keys = self.column("prompt_sha256")
        if bad := [key for key in keys.tolist() if not _KEY.fullmatch(key)]:
            raise InputError(
                f"{self.folder / _ROWS} is damaged: {bad[0]!r:.40} is no key of a prompt; collect "
                "again."
            )
        digits = [int(key[:15], 16) for key in keys]
        return np.array(digits, np.int64)

    def tokens(
        self, layer: int | None
    ) -> tuple[Float[Tensor, "tokens width"], Int[Tensor, " tokens"]]:
        """States of one layer in float32, and the row of each token, in order.

        Raises:
            InputError: the layer was not collected, or its folder is damaged.
        """
        if layer not in self.layers:
            raise InputError(
                f"{self.folder} has no layer {layer}; it has {', '.join(map(str, self.layers))}."
            )
        stored = self._stored(layer).load()
        rows = stored["rows"]
        inside = len(rows) == self.meta["tokens"] and int(rows.max()) < len(self)
        if not inside or not bool(self._lengths(rows).all()):
            raise InputError(
                f"layer {layer} of {self.folder} does not hold the {self.meta['tokens']} tokens of "
                f"{len(self)} prompts that were collected; collect again."
            )
        return stored["values"].flatten(1).float(), rows

    def sequences(self, layer: int | None) -> list[Tensor]:
        """The states of each prompt's tokens, [length, width]."""
        values, rows = self.tokens(layer)
        return list(torch.split(values, self._lengths(rows).tolist()))

    def states(
        self, layers: Sequence[int | None] | None = None, pool: str = "last"
    ) -> Float[np.ndarray, "n layers width"]:
        """One state for each prompt and layer.

        Args:
            layers: which; all if None.
            pool: `last` or `mean` of the prompt's tokens, which are the same where there is one.
        """
        wanted = self.layers if layers is None else layers
        by_layer = []
        for layer in wanted:
            rows = self.sequences(layer)
            by_layer.append([row.mean(0) if pool == "mean" else row[-1] for row in rows])
        return torch.stack([torch.stack(rows) for rows in by_layer], 1).numpy()

    def _stored(self, layer: int | None) -> StoredActivations:
        stored = StoredActivations.open(self.folder / _name(layer, self.site))
        wanted = Site(self.site, layer).hook_name
        if stored.index.get("site", wanted) != wanted:
            raise InputError(
                f"{stored.folder} holds {stored.index['site']}, where {wanted} was collected; "
                "collect again, or put the folder back as it was."
            )
        return stored

    def _lengths(self, rows: Tensor) -> Tensor:
        return torch.bincount(rows, minlength=len(self))


def _close(folder: Path, meta: dict[str, Any]) -> None:
    """Write `collection.json` with the checksums of the other files, shards excepted."""
    sums = {name: file_sha256(folder / name) for name in (_ROWS, *map(_index, _folders(meta)))}
    write_atomically(folder / INDEX, sealed_json({**meta, "checksums": sums}))


def _index(name: str) -> str:
    return f"{name}/index.json"


def _folders(meta: dict[str, Any]) -> list[str]:
    return [_name(layer, meta["site"]) for layer in meta["layers"]]


def _require_meta(meta: dict[str, Any], sealed: bool) -> None:
    """Check the fields of `collection.json`, and that its places can be those of its model."""
    require_fields(meta, _FIELDS)
    require_place(meta, [Site(meta["site"], layer) for layer in meta["layers"]], None)
    names = {_ROWS, *map(_index, _folders(meta))}
    if ("checksums" in meta) != sealed:
        raise ValueError("it has checksums of its files, and none of its own, or no others")
    if set(meta.get("checksums", names)) != names:
        raise ValueError("its checksums are not those of its files")


def _require_files(folder: Path, meta: dict[str, Any]) -> None:
    for name, wanted in meta.get("checksums", {}).items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name} is missing or unreadable; collect again.") from error
        if found != wanted:
            raise InputError(
                f"{folder / name} was changed after it was written, for its checksum does not "
                "match; collect again, or put the file back as it was."
            )


def _name(layer: int | None, site: str) -> str:
    return site if layer is None else f"layer-{layer:03d}"


def _require_same(found: Collection, meta: dict[str, Any]) -> None:
    """A finished folder is that of the same run, or in the way."""
    same = ("site", "layers", "segment", "rows_sha256", "table_sha256")
    theirs, ours = found.meta["origin"], meta["origin"]
    changed = [key for key in same if found.meta.get(key) != meta[key]]
    changed += compared(theirs, ours)[1].values()
    if changed:
        raise InputError(
            f"{found.folder} already holds a collection that differs in {', '.join(changed)}; give "
            "another folder, or remove it."
        )


def _require_space(out: Path, size: int) -> None:
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if size > free:
        raise InputError(
            f"the activations need {size / 1e9:.2f} GB and {nearest} has {free / 1e9:.2f} GB left; "
            "collect fewer layers or prompts, or choose another disk."
        )
