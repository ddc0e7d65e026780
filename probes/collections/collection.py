"""Collections: activations of prompts on disk, with the labels they are probed for.

A folder with one activation folder a layer (`interp.store`), `rows.csv` (a line a prompt: index,
label, source, text, the last token that is kept, and every further column of the data), and
`collection.json` (site, layers, segment, data and model), which is written last: a folder without
it is unfinished.
"""

import json
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
from interp.errors import InputError
from interp.model.artifacts import versions
from interp.model.origin import origin
from interp.resume.files import write_atomically
from probes.collections.plan import CollectionPlan

FORMAT_VERSION = 2
_INDEX, _ROWS, _UNFINISHED = "collection.json", "rows.csv", "unfinished"


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
    if (out / _INDEX).exists():
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
            write_atomically(out / _INDEX, (json.dumps(meta, indent=1) + "\n").encode())
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
            meta = json.loads((folder / _INDEX).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} has no readable {_INDEX}; give a folder that `mechguard collect` has "
                "finished, or run the same command again to finish it."
            ) from error
        kind = meta.get("kind") if isinstance(meta, dict) else None
        if kind != "collection" or meta.get("format_version") != FORMAT_VERSION:
            raise InputError(f"{folder / _INDEX} is not a collection of format {FORMAT_VERSION}.")
        try:
            table = csv_table(folder / _ROWS)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / _ROWS} is missing or damaged; collect again.") from error
        if len(table) != meta["rows"]:
            raise InputError(
                f"{folder / _ROWS} has {len(table)} rows, and {meta['rows']} were collected; "
                "collect again, or put the file back as it was."
            )
        return cls(folder, meta, table)

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
        digits = [int(key[:15], 16) for key in self.table["prompt_sha256"]]
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
        stored = StoredActivations.open(self.folder / _name(layer, self.site)).load()
        rows = stored["rows"]
        if len(rows) != self.meta["tokens"] or not bool(self._lengths(rows).all()):
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

    def _lengths(self, rows: Tensor) -> Tensor:
        return torch.bincount(rows, minlength=len(self))


def _name(layer: int | None, site: str) -> str:
    return site if layer is None else f"layer-{layer:03d}"


def _require_same(found: Collection, meta: dict[str, Any]) -> None:
    """A finished folder is that of the same run, or in the way."""
    same = ("site", "layers", "segment", "rows_sha256", "table_sha256")
    theirs, ours = found.meta["origin"], meta["origin"]
    changed = [key for key in same if found.meta[key] != meta[key]]
    changed += [key for key in ("fingerprint", "tokenizer_hash") if theirs[key] != ours[key]]
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
