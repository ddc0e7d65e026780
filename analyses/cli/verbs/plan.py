"""`mechguard plan`: what a checkpoint is and what can be measured on it, without its weights."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from analyses.cli import options


def plan(
    model: options.Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: options.Revision = None,
) -> None:
    """Anatomy, sites, analyses that apply and a memory estimate; loads no weights."""
    from analyses.planning import plan as described_by

    described = described_by(model, revision=revision)
    if as_json:
        options.say(json.dumps(described, indent=1))
    else:
        _show(described)


def _show(described: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    anatomy, memory = described["anatomy"], described["memory"]
    console.print(f"[bold]{escape(described['model'])}[/]  {anatomy['architecture']}")
    console.print(
        f"{anatomy['parameters']:,} parameters, width {anatomy['width']}, "
        f"vocabulary {anatomy['vocabulary']:,}, context {anatomy['context']}, "
        f"{anatomy['norm_placement']}-norm{', parallel blocks' if anatomy['parallel'] else ''}"
    )
    console.print(
        f"weights {memory['weights_bytes'] / 1e9:.3g} GB ({described['dtype']}), activations of a "
        f"batch of {memory['batch_tokens']} tokens about {memory['activations_bytes'] / 1e9:.3g} GB"
    )
    table = Table("layers", "attention", "heads", "KV heads", "head dim", "gate", "learned sink")
    for span, layer in _runs(anatomy["layers"]):
        kind = layer["attention"] + (f" {layer['window']}" if layer["window"] else "")
        gate = layer["gate"]
        gate = f"{gate['kind']} ({gate['packing']}, {gate['activation']})" if gate else "–"
        counts = [str(layer[key] or "–") for key in ("heads", "kv_heads", "head_dim")]
        table.add_row(span, kind, *counts, gate, "yes" if layer["learned_sink"] else "–")
    console.print(table)
    for span, layer in _runs(anatomy["layers"], "sites"):
        console.print(f"sites of {span}: {', '.join(layer['sites'])}")
    for name, entry in described["analyses"].items():
        verdict = "applies" if entry["applies"] else f"does not apply: {entry['reason']}"
        console.print(f"{name}: {verdict}")


def _runs(
    layers: Sequence[dict[str, Any]], key: str | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Layers that are alike under one heading, in the order of their first."""
    groups: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        groups.setdefault(json.dumps(layer[key] if key else layer), []).append(index)
    return [(_span(indices), layers[indices[0]]) for indices in groups.values()]


def _span(indices: list[int]) -> str:
    if len(indices) > 2 and indices == list(range(indices[0], indices[-1] + 1)):
        return f"{indices[0]}–{indices[-1]}"
    return ", ".join(map(str, indices))
