"""`mechguard doctor`: the invariants, checked on the user's own checkpoint."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interp.doctor.report import DoctorReport


def doctor(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, or organism:NAME.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16; auto keeps the checkpoint's.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run code that comes with the checkpoint.")
    ] = False,
) -> None:
    """Check parity, padding, cache, causality and restoration on MODEL.

    Exit code 0 if every check that applies holds, 1 if one fails.
    """
    from interp.doctor.report import doctor as examine
    from interp.errors import CheckError, InputError
    from interp.resolve import load
    from interp.resume.files import write_atomically

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"{json_file.parent} is no folder; make it before writing {json_file}.")
    checkpoint = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    report = examine(checkpoint)
    _show(report)
    if json_file is not None:
        write_atomically(json_file, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    failed = [check.name for check in report.checks if check.status == "FAIL"]
    if failed:
        raise CheckError(f"{model} fails {len(failed)} check(s): {', '.join(failed)}.")


def _show(report: "DoctorReport") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from interp.doctor.report import show_number

    colours = {"PASS": "green", "FAIL": "bold red", "N/A": "dim"}
    title = f"{report.model}: {report.architecture}, {report.dtype} on {report.device}"
    table = Table("check", "", "difference", "allowed", "what was compared", title=escape(title))
    for check in report.checks:
        table.add_row(
            check.name,
            f"[{colours[check.status]}]{check.status}[/]",
            show_number(check.difference),
            show_number(check.tolerance),
            escape(check.detail),
        )
    console = Console()
    console.print(table)
    console.print(f"{report.seconds:.1f} s")
