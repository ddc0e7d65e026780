"""Options that several verbs share, and what they do with them."""

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.checks import MOST_SEED
from interp.errors import InputError, first_line

if TYPE_CHECKING:
    from analyses.shared.running import Progress
    from interp.checkpoint import Checkpoint
    from interp.data.rows import Texts


HELD = ExitStack()
"""What a command holds until it ends; `main` closes it."""


def bounded(least: float, most: float = math.inf) -> Callable[[typer.CallbackParam, Any], Any]:
    """A check of a number that the option parser lets through, such as `nan`.

    Args:
        least: that is taken.
        most: that is taken.
    """

    def check(option: typer.CallbackParam, value: Any) -> Any:
        if value is not None and not (least <= value <= most and math.isfinite(value)):
            span = f"from {least:g} to {most:g}" if math.isfinite(most) else f"{least:g} or more"
            raise InputError(f"{option.opts[0]} {value} is out of range; give {span}.")
        return value

    return check


class AttentionChoice(StrEnum):
    """How attention statistics are computed."""

    auto = "auto"
    eager = "eager"


class DtypeChoice(StrEnum):
    """Weights as stored, or cast."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[
    str, typer.Argument(help="Hub id, local folder, or organism:NAME.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the report.", show_default=False)]
Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        help="Reference model: a checkpoint of the same shape that is not suspected, such as the "
        "base.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the report of another run in the folder.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="What may differ from the model that an artefact was made on: fingerprint (weights, "
        "config, dtype, adapter), tokenizer_hash (tokenizer, template), or one of these parts.",
        show_default=False,
    ),
]
AnyModel = Annotated[
    bool, typer.Option("--any-model", help="Take artefacts that name no model they were made on.")
]
TextFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--texts",
        help=".txt, .jsonl, .json, .csv, .parquet, or the name of a data set; give it again for "
        "each further domain. An organism brings texts of its own.",
        show_default=False,
    ),
]
Length = Annotated[int, typer.Option(help="Tokens in a sequence, BOS included when on.")]
MaxSequences = Annotated[int, typer.Option(help="Sequences of each file, at most.")]
Epsilon = Annotated[float, typer.Option(help="Threshold of the sink rate.")]
Bos = Annotated[
    bool | None,
    typer.Option("--bos/--no-bos", help="Put BOS in front [default: as the tokenizer does]."),
]
Dtype = Annotated[DtypeChoice, typer.Option(help="Cast the weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Equalise = Annotated[
    bool,
    typer.Option(
        "--equalise/--no-equalise",
        help="Strip final marks and match lengths of harmful and harmless prompts of files.",
    ),
]
Seed = Annotated[
    int, typer.Option(help="Of the bootstrap and the noise.", callback=bounded(0, MOST_SEED))
]
Limit = Annotated[
    int | None, typer.Option(help="Documents of each file, and prompts of a label, at most.")
]
Attention = Annotated[
    AttentionChoice,
    typer.Option(help="auto: exact statistics beside SDPA. eager: the model's own T×T weights."),
]
CausalSequences = Annotated[
    int, typer.Option(help="Sequences of each file in the causal panel; 0 skips it.")
]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")
]

Scorer = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="An external scorer of refusals: MODULE:FUNCTION, or the folder of a sequence "
        "classifier.",
        show_default=False,
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        help="For a checkpoint without one: a file with a Jinja chat template, or `plain` to give "
        "the words of the prompt alone.",
        show_default=False,
    ),
]


def load_checkpoint(
    model: str,
    dtype: DtypeChoice,
    device: str,
    revision: str | None,
    trust_remote_code: bool,
    chat_template: str | None = None,
) -> "Checkpoint":
    """Load what the command line named, with another chat template if one was named.

    Raises:
        InputError: no such checkpoint, or no such file of a template.
    """
    from interp.resolve import load

    checkpoint = load(
        model,
        dtype=dtype.value,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    return checkpoint if chat_template is None else _with_template(checkpoint, chat_template)


def load_reference(
    model: str | None,
    dtype: DtypeChoice,
    device: str,
    revision: str | None,
    trust_remote_code: bool,
    chat_template: str | None = None,
) -> "Checkpoint | None":
    """Load the reference model, if one was named; the revision is the suspect's and not its own.

    Raises:
        InputError: no such checkpoint.
    """
    if model is None:
        return None
    return load_checkpoint(model, dtype, device, None, trust_remote_code, chat_template)


def _with_template(checkpoint: "Checkpoint", template: str) -> "Checkpoint":
    from interp.data.segments import with_chat_template
    from interp.reading import MOST_CONFIG_BYTES, decoded, read_bytes

    if template == "plain":
        return with_chat_template(checkpoint, None)
    try:
        source = decoded(read_bytes(Path(template), MOST_CONFIG_BYTES))
    except (InputError, ValueError) as error:
        raise InputError(
            f"--chat-template {template} is neither `plain` nor a readable file "
            f"({first_line(error)})."
        ) from error
    return with_chat_template(checkpoint, source)


def allowed(allow: Sequence[str] | None, any_model: bool) -> tuple[str, ...]:
    """What `--allow` and `--any-model` name, as `interp.model.origin` takes it."""
    return (*(allow or ()), *(["origin"] if any_model else []))


def domains(model: str, files: list[str] | None) -> list["Texts"]:
    """The texts to run on: the files and data sets that were named, or an organism's own.

    Raises:
        InputError: a model that brings no texts needs `--texts`.
    """
    from analyses.shared.data import domains_of
    from interp.data.rows import read_texts

    return domains_of([read_texts(name) for name in files] if files else None, model)


def lines_of(path: Path, option: str) -> list[str]:
    """The strings of a file, one a line, each once, empty lines left out.

    Args:
        path: of the file.
        option: that named it.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    from interp.reading import decoded, read_bytes

    try:
        lines = [line.strip() for line in decoded(read_bytes(path)).splitlines()]
    except (InputError, ValueError) as error:
        raise InputError(f"{option} {path} cannot be read ({first_line(error)}).") from error
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"{option} {path} holds no string; write one a line.")
    return list(dict.fromkeys(found))


def command_line() -> str:
    """The command as it was typed, to reproduce the run."""
    return shlex.join(["mechguard", *sys.argv[1:]])


def workdir() -> Path:
    """Where a stopped run leaves what it had, so that the same command goes on from there."""
    from platformdirs import user_cache_path

    return user_cache_path("mechguard") / "unfinished"


def require_folder(out: Path) -> None:
    """Refuse before a long run what could only fail after it.

    Raises:
        InputError: `out` is a file, lies below one, or cannot be written to.
    """
    from interp.reading import exists

    out = out.absolute()
    nearest = next(path for path in (out, *out.parents) if exists(path))
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file, so no report can go to {out}; name a folder.")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{nearest} cannot be written to; name another folder with --out.")


def claim(
    out: Path, kind: str, model: str, overwrite: bool, data: Sequence[str] | None = None
) -> None:
    """Hold the folder of a report until the command ends; only the first rank does.

    Args:
        out: the folder.
        kind: of the finding.
        model: as it was named.
        overwrite: replace the report of another run.
        data: SHA-256 of the data of the run; None where it is not known before the model is.

    Raises:
        InputError: the folder holds another run's report, or another run is writing to it.
    """
    from analyses.report.folder import claimed

    require_folder(out)
    if is_first_rank():
        HELD.enter_context(claimed(out, kind=kind, model=model, data=data, overwrite=overwrite))


def is_first_rank() -> bool:
    """Whether this process is the one that writes and speaks, under `torchrun` or alone."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """One bar a stage on stderr, with the rate and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<6}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not is_first_rank()) as bars:
        tasks: dict[str, int] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, rate="")
            task = bars.tasks[tasks[stage]]
            speed = task.finished_speed or task.speed
            rate = f"{speed:.1f} {stage}/s" if speed else ""
            bars.update(task.id, completed=done, total=total, rate=rate)

        yield show


def say(text: str) -> None:
    """A line for the reader, on stdout."""
    typer.echo(text)
