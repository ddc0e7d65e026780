"""The command line: one file a verb. Nothing heavy is imported before a verb runs."""

import logging
import os
import sys

import typer

from analyses.cli import options
from analyses.cli.artefacts.collect import collect
from analyses.cli.artefacts.generate import generate
from analyses.cli.artefacts.guard import app as guard
from analyses.cli.artefacts.probe import app as probe
from analyses.cli.artefacts.serve import serve
from analyses.cli.artefacts.steer import app as steer
from analyses.cli.artefacts.vector import app as vector
from analyses.cli.verbs.backdoor import backdoor
from analyses.cli.verbs.cliff import cliff
from analyses.cli.verbs.doctor import doctor
from analyses.cli.verbs.interaction import interaction
from analyses.cli.verbs.organisms import app as organisms
from analyses.cli.verbs.plan import plan
from analyses.cli.verbs.refusal import refusal
from analyses.cli.verbs.render import render
from analyses.cli.verbs.report import report
from analyses.cli.verbs.self_report import self_report
from analyses.cli.verbs.sinks import sinks
from analyses.cli.verbs.traces import traces
from interp.errors import MechguardError, first_line, is_out_of_memory

INTERRUPTED = 130
_STOPPED = "interrupted; no result was written, and the same command goes on from where it was."
_SMALLER = (
    "load the model in fewer bits (--dtype bfloat16), give fewer or shorter prompts, or take a "
    "device with more memory."
)

app = typer.Typer(
    name="mechguard",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Bring a checkpoint, get a defensible safety report.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 bad input, 3 unsupported model, "
    "130 interrupted.",
)
app.command()(plan)
app.command()(doctor)
app.command()(sinks)
app.command()(refusal)
app.command()(cliff)
app.command()(backdoor)
app.command("self-report")(self_report)
app.command()(interaction)
app.command()(traces)
app.command()(generate)
app.command()(serve)
app.command()(collect)
app.command()(report)
app.command()(render)
app.add_typer(probe, name="probe")
app.add_typer(guard, name="guard")
app.add_typer(steer, name="steer")
app.add_typer(vector, name="vector")
app.add_typer(organisms, name="organisms")


def main() -> None:
    """Run the command line; user errors become one sentence and an exit code."""
    # Progress is ours to show; the libraries' own bars and notices would only drown the result.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("mechguard").setLevel(logging.INFO)
    try:
        with options.HELD:
            app()
    except MechguardError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _fail(_STOPPED, INTERRUPTED)
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(_fail(f"memory ran out ({first_line(error)}); {_SMALLER}", 2))


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"mechguard: {message}\n")
    return code
