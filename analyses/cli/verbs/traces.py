"""`mechguard traces`: what shifts between two runs of an agent, and where does it come from?"""

from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import options


def traces(
    data: Annotated[
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
            help="Another run of the same tasks: without the trigger, or of a reference model.",
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
    overwrite: options.Overwrite = False,
) -> None:
    """Compare runs of an agent from their traces, without its model, and write a report.

    A line holds `id`, `query`, `steps` of `thought`, `tool` and `observation`, `answer` and
    `success`. The runs of an organism are kept beside the report.
    """
    from analyses.traces.material import digest_of, organism_runs
    from analyses.traces.run import traces as measured
    from interp.errors import InputError
    from probes.backdoors.agents.traces import read_traces, write_traces

    made = other = None
    if data.startswith("organism:"):
        if reference is not None:
            raise InputError(f"{data} brings a run to compare with; leave --reference out.")
        options.claim(out, "traces", data, overwrite)
        made = organism_runs(data.removeprefix("organism:"), seed)
        run, other, names = made.run, made.reference, ("run.jsonl", "reference.jsonl")
    else:
        run = read_traces(data)
        names = (Path(data).name, "" if reference is None else reference.name)
        other = None if reference is None else read_traces(reference)
        digests = [digest_of(some) for some in (run, other) if some is not None]
        options.claim(out, "traces", names[0], overwrite, digests)
    finding = measured(
        run,
        other,
        tool=tool,
        failed=failed,
        names=names,
        organism=None if made is None else made.facts(),
        seed=seed,
        command=options.command_line(),
    )
    page = finding.save(out, overwrite=overwrite)
    if made is not None:
        write_traces(out / names[0], made.run)
        write_traces(out / names[1], made.reference)
    options.say(f"{finding.verdict}\n{page}")
