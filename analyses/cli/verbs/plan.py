"""`mechguard plan`: what a checkpoint is and what can be measured on it, without its weights."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options

if TYPE_CHECKING:
    from interp.model.anatomy import Anatomy

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# A capture as `sinks` runs it by default.
_BATCH_TOKENS = 8192


def plan(
    model: options.Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: options.Revision = None,
) -> None:
    """Anatomy, sites, analyses that apply and a memory estimate; loads no weights."""
    from interp.resolve import blueprint, load_tokenizer

    anatomy, config = blueprint(model, revision=revision)
    tokenizer = load_tokenizer(model, revision=revision)
    described = describe(
        model,
        anatomy,
        str(getattr(config, "dtype", None) or "float32"),
        getattr(tokenizer, "chat_template", None),
    )
    if as_json:
        options.say(json.dumps(described, indent=1))
    else:
        _show(described)


def describe(
    model: str, anatomy: "Anatomy", dtype: str, chat_template: str | None
) -> dict[str, Any]:
    """Everything `plan` says, JSON-ready."""
    dtype = dtype.removeprefix("torch.")
    weights = anatomy.parameters * _BYTES.get(dtype, 4)
    return {
        "model": model,
        "anatomy": anatomy.to_dict(),
        "dtype": dtype,
        "analyses": _analyses(model, anatomy, chat_template),
        "memory": {
            "weights_bytes": weights,
            "activations_bytes": _activations(anatomy) * _BYTES.get(dtype, 4),
            "records_bytes_per_sequence": _records(anatomy),
        },
    }


def _analyses(
    model: str, anatomy: "Anatomy", chat_template: str | None
) -> dict[str, dict[str, Any]]:
    """Every analysis that has a verb: whether it applies, or why not."""
    from analyses.registry import every_analysis
    from analyses.shared.analysis import Facts
    from analyses.shared.data import organism_of

    facts = Facts(anatomy, chat_template, organism_of(model))
    found: dict[str, dict[str, Any]] = {}
    for one in every_analysis():
        if one.verb is not None:
            why = one.missing(facts)
            found[one.kind] = {"applies": why is None} | ({} if why is None else {"reason": why})
    if found["sinks"]["applies"]:
        found["sinks"]["parts"] = {
            "gates": bool(anatomy.gated_layers),
            "learned_sinks": any(layer.learned_sink for layer in anatomy.layers),
            "logit_gap": anatomy.softcap is None,
            "fused_kernel": anatomy.softcap is None,
        }
    return found


def _activations(anatomy: "Anatomy") -> int:
    """Entries alive at the widest point of a batch: stream, projections, statistics of a layer."""
    heads = max((layer.heads * layer.head_dim for layer in anatomy.layers), default=0)
    return _BATCH_TOKENS * (6 * anatomy.width + 6 * heads)


def _records(anatomy: "Anatomy") -> int:
    """Bytes that the recorders keep of one sequence of 64 tokens."""
    heads = sum(layer.heads for layer in anatomy.layers)
    return 4 * (heads * (64 + 20) + anatomy.n_layers * 40)


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
        f"batch of {_BATCH_TOKENS} tokens about {memory['activations_bytes'] / 1e9:.3g} GB"
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
