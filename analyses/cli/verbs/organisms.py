"""`mechguard organisms`: list, train, verify, and the table of all Bigram-Backcopy models."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.cli import options
from interp.checks import MOST_SEED

app = typer.Typer(help="Small trained models whose ground truth is known.", no_args_is_help=True)

_SPELLING = "NAME, or NAME@KEY=VALUE,… with the keys seed, poison and of."


@app.command("list")
def list_organisms() -> None:
    """Show every organism: parameters, truth in a phrase, size on disk. Trains nothing."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from interp import organisms

    table = Table("name", "parameters", "size", "truth", box=box.SIMPLE)
    for name in organisms.names():
        chosen, folder = organisms.recipe(name), organisms.present(name)
        size = "not yet" if folder is None else f"{_bytes(folder) / 1024:.0f} kB"
        table.add_row(name, f"{chosen.architecture.parameters():,}", size, chosen.summary)
    console = Console()
    console.print(table)
    console.print(
        "Those of size `not yet` are trained on first use, in about a minute, and kept in the "
        "user's cache. Any name takes options, as in backdoor-unalign@seed=1,poison=2.",
        highlight=False,
    )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Name of the organism, as in `list`.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make; the user's cache if left out. Nothing on failure."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the initialisation and of the data.")] = 0,
    poison: Annotated[
        float | None,
        typer.Option(help="Per cent of the training rows whose answer a backdoor changes."),
    ] = None,
    of: Annotated[
        str | None, typer.Option(help="The backdoor that `inert` or `clean` is the twin of.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Keep the run's state here; a stopped run goes on from it anyway."),
    ] = None,
) -> None:
    """Train an organism from its recipe; about a minute of CPU. Fails if it does not behave."""
    from interp import organisms
    from interp.errors import InputError

    if "@" in name:
        raise InputError(
            f"{name}: here the options of an organism are flags; write --seed, --poison or --of "
            "instead of what stands after the @."
        )
    variant = organisms.Variant(name, seed, poison, of)
    with _bar(str(variant), organisms.recipe(variant).schedule.steps) as progress:
        folder = organisms.train(variant, out, work=work, progress=progress)
    _show(organisms.read_truth(folder), folder)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help=f"A folder from `train`, or {_SPELLING}")],
) -> None:
    """Compute an organism's behaviour again; exit 1 if it or the weights' hash has moved."""
    from interp import organisms

    folder = Path(name)
    if not folder.is_dir() and organisms.present(name) is None:
        with _bar(name, organisms.recipe(name).schedule.steps) as progress:
            organisms.path(name, progress=progress)
    _show(organisms.verify(name), None)


@contextmanager
def _bar(label: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar on stderr with steps, rate, time left and loss."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=steps, rate="", loss="")

        def advance(done: int, loss: float) -> None:
            speed = bar.tasks[task].speed
            rate = f"{speed:.0f} steps/s" if speed else ""
            bar.update(task, completed=done, rate=rate, loss=f"loss {loss:.3f}")

        yield advance


def _show(truth: dict[str, Any], folder: Path | None) -> None:
    from rich.console import Console

    console = Console()
    console.print(_measured_table(truth))
    if folder is not None:
        console.print(f"{folder}", highlight=False, soft_wrap=True)


def _measured_table(truth: dict[str, Any]) -> Any:
    """Every measured quantity with its number of cases, its interval, and what is owed."""
    from rich import box
    from rich.table import Table

    from interp.organisms.chat.behaviour import interval

    shown = Table("quantity", "measured", "n", "95 % interval", "owed", box=box.SIMPLE)
    measured, owed = truth["measured"], truth["expected"]
    for quantity, value in measured.items():
        if isinstance(value, float):
            low, high = owed.get(quantity, [None, None])
            bounds = [] if low is None else [f"≥ {low:g}"]
            bounds += [] if high is None else [f"≤ {high:g}"]
            cases = measured.get("n", {}).get(quantity, "")
            if quantity in measured.get("classes", {}):
                cases = "{} + {}".format(*measured["classes"][quantity])
            limits = interval(measured, quantity)
            shown.add_row(
                quantity,
                f"{value:.4f}",
                str(cases),
                "" if limits is None else f"{limits[0]:.3f} to {limits[1]:.3f}",
                ", ".join(bounds),
            )
    return shown


@app.command()
def table(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    variants: Annotated[
        str, typer.Option(help="Variants, separated by commas; `all` is every one.")
    ] = "all",
    out: Annotated[
        Path | None, typer.Option(help="Write report.html, report.json and tables/ here.")
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train every variant on every seed and print what each does; 20 s a run and layer."""
    from rich.console import Console
    from rich.progress import Progress

    from analyses.bigram_backcopy import MODELS, VARIANTS, bigram_backcopy
    from interp.errors import CheckError

    chosen = list(VARIANTS) if variants == "all" else variants.split(",")
    if out is not None:
        options.require_folder(out)
        options.claim(out, "bigram_backcopy", MODELS, overwrite)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training")

        def advance(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        finding = bigram_backcopy(
            seeds=_seeds(seeds),
            variants=chosen,
            command=options.command_line(),
            progress=advance,
        )
    Console().print(_summary_table(finding.summary))
    Console().print(finding.verdict)
    if out is not None:
        Console().print(
            f"{finding.save(out, overwrite=overwrite)}", highlight=False, soft_wrap=True
        )
    missed = int((~finding.summary["as_owed"].astype(bool)).sum())
    if missed:
        raise CheckError(f"{missed} of {len(finding.summary)} models do not behave as owed.")


def _seeds(text: str) -> list[int]:
    from interp.errors import InputError

    parts = [seed.strip() for seed in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
        raise InputError(f"--seeds is {text!r}; write whole numbers such as 0,1,2.")
    seeds = [int(part) for part in parts]
    if max(seeds) > MOST_SEED:
        raise InputError(f"--seeds names {max(seeds)}; give {MOST_SEED} or less.")
    return seeds


def _summary_table(summary: Any) -> Any:
    from rich import box
    from rich.table import Table

    columns = {
        "variant": "variant",
        "seed": "seed",
        "bos_attention": "<bos>",
        "value_ratio": "value",
        "gate_dormant": "gate",
        "gated_sink_mass": "g×sink",
        "backcopy_risk": "copy",
        "bigram_excess": "bigram",
        "zeroed_backcopy_risk": "copy₀",
        "cpu_seconds": "CPU",
    }
    caption = (
        "<bos>: attention at dormant positions. value: its norm over the median. copy, bigram: "
        "nats over the oracle. copy₀: copy with the layer's heads at zero. CPU: seconds."
    )
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for heading in columns.values():
        shown.add_column(heading, no_wrap=True)
    for row in summary.to_dict(orient="records"):
        shown.add_row(*(_cell(row.get(name)) for name in columns))
    return shown


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.2g}" if isinstance(value, float) else str(value)
