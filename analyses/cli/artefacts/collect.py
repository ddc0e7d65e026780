"""`mechguard collect`: activations of prompts to disk."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice


def collect(
    model: options.Model,
    data: Annotated[
        str,
        typer.Option(
            help="Prompts: .csv, .parquet or .jsonl with `messages` or a text column, .json, .txt, "
            "or the name of a data set; with `label` and `source` where there are any.",
            show_default=False,
        ),
    ],
    site: Annotated[
        str,
        typer.Option(
            help="SITE or SITE:LAYERS, such as resid_pre, resid_post:10-20 or mlp_out:3,5,7.",
            show_default=False,
        ),
    ],
    at: Annotated[
        str,
        typer.Option(
            help="bos, system, instruction, post_instruction, t_inst (last token of the "
            "instruction), t_post_inst (last of the prompt), last or all.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the collection.", show_default=False)
    ],
    label: Annotated[
        str | None, typer.Option(help="Label of all prompts, where the file holds none.")
    ] = None,
    chat_template: options.ChatTemplate = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N prompts only.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Most tokens in a forward pass.", min=1)] = 8192,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Keep activations of prompts, for `mechguard probe`. A stopped run goes on where it was."""
    from interp.data.prompt_sets import PromptSet, read_prompts
    from interp.data.sources import read_table
    from interp.errors import InputError
    from probes.collections.collection import collect as run
    from probes.collections.plan import parse_site, plan_collection

    options.require_folder(out)
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} leaves no prompt; ask for 1 or more.")
    prompts = PromptSet(read_prompts(data, label or "unlabelled").prompts[:limit])
    table = read_table(data)[: len(prompts)]
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    name, layers = parse_site(site, checkpoint.anatomy.n_layers)
    plan = plan_collection(checkpoint, prompts, site=name, layers=layers, segment=at, columns=table)
    if options.is_first_rank():
        options.say(
            f"{len(plan.rows)} prompts, {plan.tokens} tokens at {len(plan.sites)} layer(s) of "
            f"{name}: {_size(plan.bytes)} to {out}"
        )
    with options.progress_bars() as progress:
        found = run(
            checkpoint,
            plan,
            out,
            data=Path(data).name,
            data_sha256=_sha256(Path(data)) or prompts.sha256,
            batch_tokens=batch_tokens,
            progress=lambda done, total: progress("rows", done, total),
        )
    if options.is_first_rank():
        options.say(str(found.folder))


def _sha256(path: Path) -> str | None:
    """Of a file; None for the name of a data set."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
