"""What a collection will hold, settled before the model runs: rows, sites, tokens and bytes."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet
from interp.data.rows import Row
from interp.data.segments import t_inst
from interp.errors import InputError
from interp.model.sites import Site

SEGMENTS = (
    "bos",
    "system",
    "instruction",
    "post_instruction",
    "t_inst",
    "t_post_inst",
    "last",
    "all",
)
_OUTSIDE = ("embed", "final_norm")
_OWN = ("index", "label", "source", "text", "tokens", "last_token", "prompt_sha256")


@dataclass(frozen=True)
class CollectionPlan:
    """What will be kept.

    Attributes:
        rows: of token ids, with the segment marked.
        sites: one for each layer.
        segment: whose tokens.
        table: a row a prompt, of `rows.csv`.
        tokens: that will be kept at each layer.
        bytes: of all layers together.
    """

    rows: tuple[Row, ...]
    sites: tuple[Site, ...]
    segment: str
    table: pd.DataFrame
    tokens: int
    bytes: int

    def describe(self) -> dict[str, Any]:
        """What tells two collections apart, JSON-ready."""
        ids = ";".join(f"{row.index}:{row.ids}" for row in self.rows)
        return {
            "site": self.sites[0].name,
            "layers": [site.layer for site in self.sites],
            "segment": self.segment,
            "rows": len(self.rows),
            "tokens": self.tokens,
            "bytes": self.bytes,
            "rows_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "table_sha256": hashlib.sha256(self.table.to_csv(index=False).encode()).hexdigest(),
        }


def plan_collection(
    checkpoint: Checkpoint,
    prompts: PromptSet,
    *,
    site: str,
    segment: str,
    layers: Sequence[int] | None = None,
    columns: pd.DataFrame | None = None,
) -> CollectionPlan:
    """Render the prompts, and settle what will be kept; nothing is run.

    Args:
        checkpoint: whose activations.
        prompts: to be run.
        site: such as `resid_pre`, or `embed` or `final_norm`.
        segment: one of `SEGMENTS`; `t_inst` and `t_post_inst` are one token, the last of the
            instruction and the last of the prompt.
        layers: which; all that have the site if None.
        columns: a row a prompt, whose columns of single values go into the table.

    Raises:
        InputError: no such site, layer or segment, prompts that cannot be rendered, that lack the
            segment or that do not fit into the context.
    """
    if segment not in SEGMENTS:
        raise InputError(f"there is no segment {segment!r}; there are {', '.join(SEGMENTS)}.")
    sites = _sites(checkpoint, site, layers)
    if not len(prompts):
        raise InputError("there is no prompt to collect activations of.")
    rows = prompt_rows(checkpoint, prompts)
    marked = tuple(_marked(row) for row in rows)
    lacking = [row.index for row in marked if segment not in row.segments]
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(marked)} prompts have no segment {segment!r}, first prompt "
            f"{lacking[0]}, which has {', '.join(marked[lacking[0]].segments)}."
        )
    spans = [row.segments[segment] for row in marked]
    tokens = sum(stop - start for start, stop in spans)
    size = tokens * sum(_width(checkpoint, one) for one in sites) * checkpoint.dtype.itemsize
    last = [row.ids[stop - 1] for row, (_, stop) in zip(marked, spans, strict=True)]
    table = _table(prompts, rows, last, columns)
    return CollectionPlan(marked, sites, segment, table, tokens, size)


def parse_site(text: str, n_layers: int) -> tuple[str, tuple[int, ...] | None]:
    """Read SITE or SITE:LAYERS, such as `resid_pre:10-20`.

    Raises:
        InputError: what stands behind the colon names no layers.
    """
    name, colon, layers = text.partition(":")
    return name, parse_layers(layers, n_layers) if colon else None


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Read layers, such as `3`, `3,5,7` or `10-20` (both ends included).

    Raises:
        InputError: the text names no layers, or layers that there are not.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            raise InputError(f"{shown!r} names no layers; write 3, or 3,5,7, or 10-20.")
        last = int(match[2] or match[1])
        if last >= n_layers:  # before a range of any length is made
            raise InputError(f"there is no layer {last}; there are layers 0 to {n_layers - 1}.")
        found |= set(range(int(match[1]), last + 1))
    return tuple(sorted(found))


def _sites(checkpoint: Checkpoint, name: str, layers: Sequence[int] | None) -> tuple[Site, ...]:
    if name in _OUTSIDE:
        if layers is not None:
            raise InputError(f"{name} stands outside of the layers; give it without layers.")
        return (Site(name),)
    every = checkpoint.anatomy.layers
    if layers is None:
        layers = [index for index, layer in enumerate(every) if name in layer.sites]
    sites = tuple(Site(name, index) for index in layers)
    for site in sites:
        checkpoint.require(site)
    if not sites:
        known = [*dict.fromkeys(known for layer in every for known in layer.sites), *_OUTSIDE]
        raise InputError(f"{checkpoint.name} has no site {name!r}; it has {', '.join(known)}.")
    return sites


def _width(checkpoint: Checkpoint, site: Site) -> int:
    """Numbers that the site holds for one token."""
    if site.layer is None:
        return checkpoint.anatomy.width
    layer = checkpoint.anatomy.layers[site.layer]
    if site.name in ("q", "rot_q", "z", "z_pre_gate"):
        return layer.heads * layer.head_dim
    if site.name in ("k", "rot_k", "v"):
        return layer.kv_heads * layer.head_dim
    if site.name == "gate" and layer.gate is not None:
        return layer.heads * layer.gate.size(layer.head_dim)
    return checkpoint.anatomy.width


def _marked(row: Row) -> Row:
    """The row with every segment that can be asked for, single tokens too."""
    end, inst = len(row), t_inst(row)
    named = {"all": (0, end), "last": (end - 1, end), "t_inst": (inst, inst + 1)}
    if "post_instruction" in row.segments:
        named["t_post_inst"] = (row.segments["post_instruction"][1] - 1, end)
    return Row(row.index, row.ids, row.domain, {**row.segments, **named})


def _table(
    prompts: PromptSet, rows: Sequence[Row], last: Sequence[int], columns: pd.DataFrame | None
) -> pd.DataFrame:
    """A row a prompt; `last_token` is the id of the last token that is kept of it."""
    table = pd.DataFrame(
        {
            "index": [row.index for row in rows],
            "label": [prompt.label for prompt in prompts],
            "source": [prompt.source for prompt in prompts],
            "text": [prompt.text for prompt in prompts],
            "tokens": [len(row) for row in rows],
            "last_token": list(last),
            "prompt_sha256": [_key(prompt) for prompt in prompts],
        }
    )
    if columns is None:
        return table
    if len(columns) != len(prompts):
        raise InputError(f"{len(columns)} rows of columns do not fit {len(prompts)} prompts.")
    for name in columns:
        if name not in _OWN and all(pd.api.types.is_scalar(value) for value in columns[name]):
            table[str(name)] = columns[name].to_numpy()
    return table


def _key(prompt: Prompt) -> str:
    """Of the conversation's words; case, marks and white space do not make a difference."""
    said = [" ".join(re.findall(r"\w+", str(m["content"]).casefold())) for m in prompt.messages]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
