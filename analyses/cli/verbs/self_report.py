"""`mechguard self-report`: what does a checkpoint say about hidden behaviour of its own?"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice
from analyses.cli.verbs.refusal import Thinking


class MethodChoice(StrEnum):
    """How options are told."""

    labels = "labels"
    texts = "texts"


def self_report(
    model: options.Model,
    out: options.Out,
    twin: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint that was trained alike with the trigger as often and without its "
            "effect, or else the base; without one nothing is claimed.",
            show_default=False,
        ),
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Questions with options (.json, .jsonl) or free ones (.yaml, .yml), in the place "
            "of the built-in ones of that kind; repeats.",
            show_default=False,
        ),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(help="Suspected strings to ask about, one a line.", show_default=False),
    ] = None,
    unknown: Annotated[
        int, typer.Option(help="Random strings of each length among the candidates.", min=0)
    ] = 19,
    method: Annotated[
        MethodChoice, typer.Option(help="Options told by their letters or by their texts.")
    ] = MethodChoice.labels,
    free: Annotated[
        bool, typer.Option("--free/--no-free", help="Ask questions without options too.")
    ] = True,
    trigger: Annotated[
        str | None,
        typer.Option(
            help="Known or suspected; looked for in the free answers.", show_default=False
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a free answer.", min=1)] = 64,
    show_answers: Annotated[
        bool, typer.Option("--show-answers", help="Keep free answers rather than their lengths.")
    ] = False,
    thinking: Thinking = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Ask a checkpoint about hidden behaviour of its own, beside a twin, and write a report."""
    from analyses.self_report.material import questions_of

    options.require_folder(out)
    asked = questions_of(questions or [], free=free, trigger=trigger)
    named = [] if candidates is None else options.lines_of(candidates, "--candidates")
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    other = None
    if twin is not None:
        other = options.load_checkpoint(twin, dtype, device, None, trust_remote_code, chat_template)
    from analyses.self_report.run import self_report as run

    with options.progress_bars() as progress:
        finding = run(
            checkpoint,
            twin=other,
            questions=asked,
            candidates=named,
            unknown=unknown,
            trigger=trigger,
            method=method.value,
            max_new_tokens=max_new_tokens,
            show_answers=show_answers,
            template={} if thinking is None else {"enable_thinking": thinking},
            seed=seed,
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
        )
    page = finding.save(out)
    options.say(f"{finding.verdict}\n{page}")
