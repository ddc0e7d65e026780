"""`mechguard probe`: fit a probe to collected activations, and evaluate it on others."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.cli import options
from interp.checks import MOST_SEED

app = typer.Typer(help="Linear probes on collected activations.", no_args_is_help=True)

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder from `collect`.", show_default=False)
]


class EstimatorChoice(StrEnum):
    """Linear probes."""

    logistic = "logistic"
    mass_mean = "mass-mean"
    lda = "lda"
    ridge = "ridge"


class AggregateChoice(StrEnum):
    """From tokens to a prompt."""

    mean = "mean"
    last = "last"
    max = "max"
    ema = "ema"
    rolling_mean = "rolling-mean"
    softmax = "softmax"
    attention = "attention"
    multimax = "multimax"


class StackChoice(StrEnum):
    """How layers are used."""

    best = "best"
    concat = "concat"
    stacked = "stacked"


@app.command()
def fit(
    directory: Directory,
    label: Annotated[
        str, typer.Option(help="Column with the classes, such as label.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="File of the probe.", show_default=False)],
    positive: Annotated[
        str | None, typer.Option(help="Value that counts as positive; all others are negative.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="3, or 3,5,7, or 10-20.", show_default="all collected")
    ] = None,
    estimator: Annotated[
        EstimatorChoice, typer.Option(help="Linear probe.")
    ] = EstimatorChoice.logistic,
    aggregate: Annotated[
        AggregateChoice | None,
        typer.Option(help="From tokens to a prompt, where the segment has several tokens."),
    ] = None,
    stack: Annotated[
        StackChoice, typer.Option(help="Best layer, all in one probe, or a probe over 5 probes.")
    ] = StackChoice.best,
    test_sources: Annotated[
        str | None, typer.Option(help="Hold these sources out: A,B.", show_default=False)
    ] = None,
    test_share: Annotated[
        float,
        typer.Option(
            help="Share of prompts to hold out, without --test-sources.",
            callback=options.bounded(0, 1),
        ),
    ] = 0.25,
    groups: Annotated[
        str | None, typer.Option(help="Column of prompts that are not independent.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of split, folds and null.", callback=options.bounded(0, MOST_SEED))
    ] = 0,
) -> None:
    """Choose the layer by cross-validation on the training side, test once on the other."""
    from interp.errors import InputError
    from probes.collections.collection import Collection
    from probes.collections.fit import fit_probe
    from probes.collections.plan import parse_layers

    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.parent} is no folder; make it before writing {out}.")
    collection = Collection.open(directory)
    chosen = None if layers is None else parse_layers(layers, collection.meta["origin"]["layers"])
    probe = fit_probe(
        collection,
        label,
        positive=positive,
        layers=chosen,
        estimator=estimator.value,
        aggregate=None if aggregate is None else aggregate.value,
        stack=stack.value,
        test_sources=[] if test_sources is None else test_sources.split(","),
        test_share=test_share,
        groups=groups,
        seed=seed,
    )
    _show_fit(dict(probe.meta), probe.layers)
    options.say(str(probe.save(out)))


@app.command("eval")
def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Probe from `fit`.", show_default=False)
    ],
    directory: Directory,
    label: Annotated[
        str | None, typer.Option(help="Column with the classes.", show_default="that of the fit")
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="Value that counts as positive.", show_default="that of the fit"),
    ] = None,
    allow: options.Allow = None,
    any_model: options.AnyModel = False,
) -> None:
    """Test a probe on other prompts of the same model, overall and by source."""
    from probes.collections.collection import Collection
    from probes.collections.fitted_probe import FittedProbe

    probe = FittedProbe.load(file)
    found = probe.evaluate(
        Collection.open(directory), label, positive, allow=options.allowed(allow, any_model)
    )
    rows = {"all": found["overall"]} if len(found["by_source"]) > 1 else {}
    _table(f"{file} on {directory}", rows | found["by_source"])
    if found["left_out"]:
        options.say(f"left out: {found['left_out']} prompt(s) that the probe was fitted on.")


def _show_fit(meta: dict[str, Any], layers: tuple[int | None, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if meta["candidates"]:
        table = Table("layer", "cross-validated AUROC", "", box=box.SIMPLE)
        for one in meta["candidates"]:
            used = "used" if one["layer"] in layers else ""
            table.add_row(str(one["layer"]), f"{one['cv_auroc']:.3f}", used)
        Console().print(table)
    _table("held-out prompts", {"all": meta["metrics"]})
    null = meta["metrics"]["null"]
    if "q95" in null:
        options.say(
            f"null: with {null['permutations']} shuffles of the labels the best layer reaches "
            f"{null['q95']:.3f} or more in 5 % of the cases; this AUROC is above "
            f"{null['quantile']:.1%} of them."
        )
    else:
        options.say(f"null: none, because {null['reason'].rstrip('.')}.")
    options.say(f"floors: {_floors(meta['metrics']['floors'])}; a probe that is not above them has "
                "read the surface of the prompts.")  # fmt: skip


def _floors(found: dict[str, dict[str, Any]]) -> str:
    """What the surface alone tells, in a line."""
    said = {
        "words": "the words of the prompts",
        "length": "their number",
        "last token": "the last token that is read",
    }
    told = [
        f"{said[name]} reach {one['auroc']:.3f} ({_interval(one['interval'])})"
        if "auroc" in one
        else f"{said[name]}: none, because {one['reason'].rstrip('.')}"
        for name, one in found.items()
    ]
    return ", ".join(told)


def _table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Metrics, a line a source."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    whole = next(iter(rows.values()))["tpr_at_fpr"]
    table = Table("source", "n+", "n−", "AUROC", "95 %", "TPR", "FPR", box=box.SIMPLE)
    if "tpr" in whole:
        table.add_column("TPR at 1 % FPR")
    for name, one in rows.items():
        point = one["tpr_at_fpr"]
        at_rate = f"{point['tpr']:.3f} ({_interval(point['interval'])})" if "tpr" in point else "–"
        table.add_row(
            escape(name),
            str(one["positives"]),
            str(one["negatives"]),
            _number(one["auroc"]),
            _interval(one["interval"]),
            _number(one["tpr"]),
            _number(one["fpr"]),
            *([at_rate] if "tpr" in whole else []),
        )
    options.say(f"{title}:")
    Console().print(table)
    options.say("TPR and FPR at the probe's threshold, half way between its training classes.")
    if "reason" in whole:
        options.say(f"no TPR at 1 % FPR: {whole['reason'].rstrip('.')}.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: list[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.3f}–{value[1]:.3f}"
