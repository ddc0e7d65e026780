"""`mechguard organisms`: list, train, verify, and the table of all of them."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Small trained models whose ground truth is known.", no_args_is_help=True)


@app.command("list")
def list_organisms() -> None:
    """Show every organism: parameters, size on disk, and its truth in a phrase."""
    from rich.console import Console
    from rich.table import Table

    from interp import organisms

    table = Table("name", "parameters", "size", "truth")
    for name in organisms.names():
        truth = organisms.truth(name)
        size = sum(file.stat().st_size for file in organisms.path(name).iterdir())
        table.add_row(name, f"{truth['parameters']:,}", f"{size / 1024:.0f} kB", truth["summary"])
    Console().print(table)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Name of the organism, as in `list`.")],
    out: Annotated[Path, typer.Option(help="Folder to make; nothing is written on failure.")],
    seed: Annotated[int, typer.Option(help="Seed of the initialisation and of the data.")] = 0,
    work: Annotated[
        Path | None, typer.Option(help="Keep the run's state here, and go on from it.")
    ] = None,
) -> None:
    """Train an organism from its recipe; about a minute of CPU. Fails if it does not behave."""
    from rich.console import Console
    from rich.progress import Progress

    from interp import organisms

    steps = organisms.recipe(name).schedule.steps
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{name}, seed {seed}", total=steps)

        def advance(done: int, loss: float) -> None:
            bar.update(task, completed=done, description=f"{name}, seed {seed}, loss {loss:.3f}")

        truth = organisms.train(name, out, seed, work=work, progress=advance)
    Console().print(_measured_table(truth["measured"], truth["expected"]))
    Console().print(f"{out}", highlight=False, soft_wrap=True)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="Name of an organism, or a folder from `train`.")],
) -> None:
    """Compute an organism's behaviour again; exit 1 if it or the weights' hash has moved."""
    from rich.console import Console

    from interp import organisms

    truth = organisms.verify(name)
    Console().print(_measured_table(truth["measured"], truth["expected"]))


@app.command()
def table(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    variants: Annotated[
        str, typer.Option(help="Variants, separated by commas; `all` is every one.")
    ] = "all",
    out: Annotated[
        Path | None, typer.Option(help="Write report.html, report.json and tables/ here.")
    ] = None,
) -> None:
    """Train every variant on every seed and print what each does; 20 s a run and layer."""
    from rich.console import Console
    from rich.progress import Progress

    from analyses.bigram_backcopy import VARIANTS, bigram_backcopy
    from interp.errors import CheckError

    chosen = list(VARIANTS) if variants == "all" else variants.split(",")
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training")

        def advance(variant: str, seed: int, done: int, steps: int) -> None:
            description = f"{VARIANTS[variant].label}, seed {seed}"
            bar.update(task, description=description, completed=done, total=steps)

        finding = bigram_backcopy(_seeds(seeds), variants=chosen, progress=advance)
    Console().print(_summary_table(finding.summary))
    Console().print(finding.verdict)
    if out is not None:
        Console().print(f"{finding.save(out)}", highlight=False, soft_wrap=True)
    missed = int((~finding.summary["as_owed"].astype(bool)).sum())
    if missed:
        raise CheckError(f"{missed} of {len(finding.summary)} models do not behave as owed.")


def _seeds(text: str) -> list[int]:
    from interp.errors import InputError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds is {text!r}; write whole numbers such as 0,1,2.") from None


def _measured_table(measured: dict[str, Any], owed: dict[str, list[float | None]]) -> Any:
    from rich.table import Table

    shown = Table("quantity", "measured", "owed")
    for quantity, value in measured.items():
        if isinstance(value, float):
            low, high = owed.get(quantity, [None, None])
            bounds = [] if low is None else [f"≥ {low:g}"]
            bounds += [] if high is None else [f"≤ {high:g}"]
            shown.add_row(quantity, f"{value:.4f}", ", ".join(bounds))
    return shown


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
