"""`mechguard backdoor`: is there a string that works as a trigger?"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice

_FILES = ".csv, .jsonl, .json, .parquet, .txt, or the name of a data set; repeats."


class WhereChoice(StrEnum):
    """The last prompt token, or every token."""

    last = "last"
    all = "all"


def backdoor(
    model: options.Model,
    out: options.Out,
    reference: options.Reference = None,
    harmless: Annotated[
        list[str] | None,
        typer.Option(help=f"Ordinary requests: {_FILES}", show_default=False),
    ] = None,
    harmful: Annotated[
        list[str] | None,
        typer.Option(
            help="Requests that are refused, to look for strings that change that; repeats.",
            show_default=False,
        ),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(help="Strings to try first, one a line.", show_default=False),
    ] = None,
    budget: Annotated[
        int,
        typer.Option(
            help="Forward passes of one row, at most, the reference model's included.", min=1
        ),
    ] = 300_000,
    seconds: Annotated[
        float, typer.Option(help="Maximum wall-clock seconds.", callback=options.bounded(0))
    ] = 900.0,
    samples: Annotated[int, typer.Option(help="Texts sampled from the chat prefix.", min=1)] = 512,
    vocabulary: Annotated[
        int, typer.Option(help="Tokens that target inversion and the beam use, at most.", min=2)
    ] = 512,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens of a reply that a string is tried with.", min=5)
    ] = 12,
    beam: Annotated[
        bool, typer.Option("--beam/--no-beam", help="Build strings where memory yields none.")
    ] = True,
    gradient: Annotated[
        bool, typer.Option("--gradient/--no-gradient", help="Search along gradients too.")
    ] = False,
    detectors: Annotated[
        bool,
        typer.Option(
            "--detectors/--no-detectors",
            help="Read the internal detectors too, none of which works on every organism.",
        ),
    ] = False,
    swap_heads_at: Annotated[
        WhereChoice,
        typer.Option(help="With --detectors: tokens at which heads are swapped between runs."),
    ] = WhereChoice.last,
    repair: Annotated[
        Path | None,
        typer.Option(
            help="Unlearn the working trigger in a copy, write that checkpoint here, and compare "
            "the two.",
            show_default=False,
        ),
    ] = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Search for a trigger that works, and write a report; a budget that runs out leaves a part."""
    from analyses.backdoor.material import requests_of
    from interp.model.saving import require_unused

    options.require_folder(out)
    if repair is not None:
        require_unused(repair)
    named = [] if candidates is None else options.lines_of(candidates, "--candidates")
    requests = requests_of(model, {"harmful": harmful, "harmless": harmless}, seed=seed)
    digests = [requests.search.sha256, requests.held_out.sha256]
    options.claim(out, "backdoor", model, overwrite, digests)
    load = (dtype, device, revision, trust_remote_code, chat_template)
    checkpoint = options.load_checkpoint(model, *load)
    other = options.load_reference(reference, *load)
    from analyses.backdoor.run import backdoor as run
    from probes.backdoors.search.result import SearchSettings

    with options.progress_bars() as progress:
        finding = run(
            checkpoint,
            requests,
            reference=other,
            candidates=named,
            forward_passes=budget,
            seconds=seconds,
            settings=SearchSettings(
                samples=samples,
                vocabulary=vocabulary,
                max_new_tokens=max_new_tokens,
                beam=beam,
                gradient=gradient,
            ),
            seed=seed,
            detectors=detectors,
            swap_heads_at=swap_heads_at.value,
            repair_to=repair,
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
        )
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.report['verdict']}: {finding.verdict}\n{page}")
    if repair is not None:
        _say_repair(finding.report["repair"], repair)


def _say_repair(repaired: dict[str, Any] | None, out: Path) -> None:
    """Say where a repaired copy is, or fail if there is none or the attack is still there.

    Raises:
        CheckError: no trigger works, so there is nothing to unlearn; or the repair has failed.
    """
    from interp.errors import CheckError

    if repaired is None:
        raise CheckError("no working trigger was found, so nothing was repaired or written.")
    if not repaired["repaired"]:
        raise CheckError(
            f"the repaired copy in {out} still shows the attack on "
            f"{100 * repaired['attack']['after']:.3g} % of {repaired['attack']['n']} held-out "
            "requests, more than 5 %; the report and the copy were written all the same."
        )
    options.say(
        f"{out}\nRun `mechguard backdoor {out} --candidates FILE` with other strings to see what "
        "is left; a trigger found in part may still work."
    )
