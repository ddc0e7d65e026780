"""`mechguard cliff`: does refusal fall at the end of a model's thought?"""

from typing import TYPE_CHECKING, Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice
from analyses.cli.verbs.refusal import JudgeSpec

if TYPE_CHECKING:
    from interp.data.prompt_sets import PromptSet

_KINDS = ".csv, .jsonl, .json, .parquet, .txt or the name of a data set; may be given again."


def cliff(
    model: options.Model,
    out: options.Out,
    harmful: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Harmful requests: {_KINDS} Left out: an organism's own, or the built-in ones.",
            show_default=False,
        ),
    ] = None,
    harmless: Annotated[
        list[str] | None,
        typer.Option(help="Harmless requests, in the same forms.", show_default=False),
    ] = None,
    thinking_budget: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a thought [default: 1024, or what the context has room for].", min=1
        ),
    ] = None,
    stop_text: Annotated[
        str | None,
        typer.Option(
            help="Cuts a thought [default: the marker with which the chat template closes one; an "
            "organism names its own].",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=1)] = 64,
    share_of_heads: Annotated[
        float, typer.Option(help="Heads to silence together, of all; at least one head.")
    ] = 0.03,
    exhaustive: Annotated[
        bool | None,
        typer.Option(
            "--exhaustive/--named-heads",
            help="Silence every head by itself, or the named ones only [default: every head if "
            "there are 64 at most].",
        ),
    ] = None,
    judge: JudgeSpec = None,
    limit: Annotated[
        int | None, typer.Option(help="Requests of each class in a part, at most.", min=4)
    ] = None,
    seed: options.Seed = 0,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Follow refusal along the thought, find its cliff and the heads behind it; write a report.

    Besides the report, OUT/selected holds training examples in the order of each selector.
    """
    options.require_folder(out)
    asked = [_prompts(harmful, "harmful"), _prompts(harmless, "harmless")]
    checkpoint = options.load_checkpoint(model, dtype, device, revision, trust_remote_code)
    from analyses.cliff.run import cliff as measured
    from probes.scorers import judge_from

    with options.progress_bars() as progress:
        finding = measured(
            checkpoint,
            *asked,
            organism=model.removeprefix("organism:") if model.startswith("organism:") else None,
            scorer=None if judge is None else judge_from(judge),
            stop_text=stop_text,
            thinking_budget=thinking_budget,
            max_new_tokens=max_new_tokens,
            share_of_heads=share_of_heads,
            exhaustive=exhaustive,
            limit=limit,
            seed=seed,
            workdir=options.workdir(),
            select_to=out / "selected",
            command=options.command_line(),
            progress=progress,
        )
    if not options.is_first_rank():
        return
    page = finding.save(out)
    options.say(f"{finding.verdict}\n{page}")


def _prompts(files: list[str] | None, label: str) -> "PromptSet | None":
    """The requests of all files together."""
    from interp.data.named_sets import prompts_of

    if not files:
        return None
    return prompts_of(files, label)
