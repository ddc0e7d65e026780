"""`mechguard traces`: what shifts between two runs of an agent, and where does it come from?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options

if TYPE_CHECKING:
    from probes.backdoors.agents.traces import Trace

    Runs = tuple[tuple[list[Trace], list[Trace] | None], tuple[str, str], dict[str, Any]]


def traces(
    run: Annotated[
        str,
        typer.Argument(
            help="Traces of an agent (.jsonl), or organism:NAME of an agent organism, which is run "
            "with its trigger and without.",
            show_default=False,
        ),
    ],
    out: options.Out,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Another run of the same tasks: without the trigger, or of a twin.",
            show_default=False,
        ),
    ] = None,
    tool: Annotated[
        str | None,
        typer.Option(
            help="Find the words that calls of this tool go with, in the query, a thought or an "
            "observation.",
            show_default=False,
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="The same of tasks that fail in the end.")
    ] = False,
    seed: options.Seed = 0,
) -> None:
    """Compare runs of an agent from their traces, without its model, and write a report.

    A line holds `id`, `query`, `steps` of `thought`, `tool` and `observation`, `answer` and
    `success`. The runs of an organism are kept beside the report.
    """
    from analyses.traces.run import traces as measured
    from probes.backdoors.agents.traces import write_traces

    options.require_folder(out)
    own = run.startswith("organism:")
    runs, names, known = _of_organism(run, reference, seed) if own else _of_files(run, reference)
    finding = measured(
        runs[0],
        runs[1],
        tool=tool,
        failed=failed,
        names=names,
        seed=seed,
        command=options.command_line(),
        provenance=known,
    )
    page = finding.save(out)
    if own:
        for name, some in zip(names, runs, strict=True):
            write_traces(out / name, some or [])
    options.say(f"{finding.verdict}\n{page}")


def _of_files(run: str, reference: Path | None) -> "Runs":
    from probes.backdoors.agents.traces import read_traces

    traces = read_traces(run)
    if reference is None:
        return (traces, None), (Path(run).name, ""), {}
    return (traces, read_traces(reference)), (Path(run).name, reference.name), {}


def _of_organism(run: str, reference: Path | None, seed: int) -> "Runs":
    """An organism's runs with its trigger and with inert words.

    Raises:
        InputError: it is no agent, or another run is given.
    """
    from analyses.traces.material import organism_runs
    from interp.errors import InputError
    from interp.model.artifacts import origin

    if reference is not None:
        raise InputError(f"{run} brings a run to compare with; leave --reference out.")
    made = organism_runs(run.removeprefix("organism:"), seed)
    known = {**origin(made.checkpoint), "trigger_in": made.place}
    return (made.run, made.reference), ("run.jsonl", "reference.jsonl"), known
