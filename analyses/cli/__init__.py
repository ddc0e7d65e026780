"""The command line: one file a verb, found in two packages.

Nothing heavy is imported before a verb runs.
"""

import importlib
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from types import FrameType, ModuleType
from typing import Annotated

import typer

from analyses.cli import artefacts, options, verbs
from interp.errors import MechguardError, first_line, is_out_of_memory

INTERRUPTED = 130
NOT_READ = 141
"""As the shell gives it for a command that writes to a pipe which nobody reads any more."""
_STOPPED = "interrupted; no result was written"
_KEPT = "the same command goes on from where it was."
_LOST = "nothing was kept, so the same command begins anew."
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


def _print_version(wanted: bool) -> None:
    if wanted:
        options.say(installed("mechguard"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """What stands before a verb."""


def _add(package: ModuleType, panel: str) -> None:
    """Every module of a package is a verb: a function of its name, or an `app` of several."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        name = found.name.replace("_", "-")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, rich_help_panel=panel)
        elif hasattr(module, found.name):
            app.command(name, rich_help_panel=panel)(getattr(module, found.name))


_add(verbs, "Measure and report")
_add(artefacts, "Make and use artefacts")


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
        with _terminated_as_interrupted(), options.HELD:
            app(prog_name="mechguard")
    except MechguardError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _fail(f"{_STOPPED}, and {_kept()}", INTERRUPTED)
        raise
    except KeyboardInterrupt:  # once more, while what was interrupted cleaned up
        sys.exit(_fail(f"{_STOPPED}, and {_kept()}", INTERRUPTED))
    except OSError as error:
        sys.exit(_fail_on_files(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(_fail(f"memory ran out ({first_line(error)}); {_SMALLER}", 2))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, by which schedulers stop a job, do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _kept() -> str:
    """What the interrupted command can go on from; whatever keeps work has imported the module."""
    folders = sys.modules.get("interp.resume.run_folder")
    return _KEPT if folders is not None and folders.any_kept() else _LOST


def _fail_on_files(error: OSError) -> int:
    """What the system refused: nobody reads the output any more, or a file cannot be used."""
    if isinstance(error, BrokenPipeError):
        # What is left in the buffer cannot be written either, and would be complained about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_READ
    named = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or first_line(error)
    return _fail(f"{named}{reason}; name another path, or make room and run again.", 2)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"mechguard: {message}\n")
    return code
