"""Reading the rows of the sink JSON, in which every number may be absent."""

from __future__ import annotations

import math
from typing import Any

from analyses.report.text import number

Row = dict[str, Any]
MOST_POINTS = 1500
Number = int | float  # JSON writes a whole float as either


def column(rows: list[Row], key: str) -> list[Number | None]:
    """The values under `key`, None where absent or not finite."""
    values = [row.get(key) for row in rows]
    return [value if value is not None and math.isfinite(value) else None for value in values]


def has(rows: list[Row] | None, *keys: str) -> bool:
    """Whether some row has a value under every one of `keys`."""
    return any(all(row.get(key) is not None for key in keys) for row in rows or [])


def having(rows: list[Row] | None, key: str) -> list[Row]:
    """The rows that have a value under `key`."""
    return [row for row in rows or [] if row.get(key) is not None]


def bounds(row: Row, key: str) -> tuple[Number | None, Number | None]:
    """The interval of `key`, stored beside it as `key_low` and `key_high`."""
    return row.get(f"{key}_low"), row.get(f"{key}_high")


def layer_name(layer: int, kind: str | None) -> str:
    """`3`, or `3 sliding` where the attention is not plain."""
    return f"{layer}" if kind in (None, "full") else f"{layer} {kind}"


def head_name(row: Row) -> str:
    """`layer 2, head 3`, with the attention kind where it is not plain."""
    kind = row.get("attention")
    name = f"layer {row['layer']}, head {row['head']}"
    return name if kind in (None, "full") else f"{name} ({kind})"


def short_name(row: Row) -> str:
    """`L2 H3`, for a table or an axis."""
    return f"L{row['layer']} H{row['head']}"


def first_of(shown: int, total: int, what: str) -> str:
    """`All 64 heads`, or `256 of 3072 heads` where not all are shown; never `All 1 heads`."""
    return f"All {total} {what}" if shown == total > 1 else f"{shown} of {total} {what}"


def thinned(rows: list[Row] | None) -> list[Row]:
    """Every n-th row, so that at most `MOST_POINTS` remain and the page stays small."""
    rows = rows or []
    return rows[:: math.ceil(len(rows) / MOST_POINTS) or 1]


def heads_of(finding: Row) -> str:
    """`64 heads over 100 sequences of 64 tokens`, for figures whose points are `thinned`."""
    total = len(finding.get("heads") or [])
    shown = len(thinned(finding.get("heads")))
    return f"{f'{shown} of ' if shown < total else ''}{total} heads over {sample(finding)}"


def layer_labels(finding: Row) -> dict[int, str]:
    """Every layer's number and label, those without softmax attention included."""
    rows = [*(finding.get("layers") or []), *(finding.get("heads") or [])]
    kinds = {row["layer"]: row.get("attention") for row in rows}
    return {layer: layer_name(layer, kinds[layer]) for layer in sorted(kinds)}


def grid(finding: Row) -> list[list[Row]]:
    """The head rows by layer (as in `layer_labels`) and head; empty where there is no head."""
    place = {(row["layer"], row["head"]): row for row in finding["heads"]}
    width = max(row["head"] for row in finding["heads"]) + 1
    return [
        [place.get((layer, head), {}) for head in range(width)] for layer in layer_labels(finding)
    ]


def sample(finding: Row) -> str:
    """`100 sequences of 64 tokens`: the n that belongs into every caption."""
    rate = finding.get("sink_rate") or {}
    return f"{number(rate.get('sequences'))} sequences of {number(rate.get('length'))} tokens"
