"""`mechguard self-report`: what does a checkpoint say about hidden behaviour of its own?"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice
from analyses.cli.verbs.refusal import Thinking


class MethodChoice(StrEnum):
    """How options are presented."""

    labels = "labels"
    texts = "texts"


def self_report(
    model: options.Model,
    out: options.Out,
    reference: options.Reference = None,
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
        MethodChoice, typer.Option(help="Options with letters, or as texts.")
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
    overwrite: options.Overwrite = False,
) -> None:
    """Ask a checkpoint about hidden behaviour of its own, and a reference model; write a report.

    The reference model is best one that was trained alike, with the trigger as often and without
    its effect, or else the base model. Without one nothing is claimed.
    """
    from analyses.self_report.material import questions_of

    asked = questions_of(questions or [], free=free, trigger=trigger)
    named = [] if candidates is None else options.lines_of(candidates, "--candidates")
    options.claim(out, "self-report", model, overwrite)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    other = options.load_reference(
        reference, dtype, device, revision, trust_remote_code, chat_template
    )
    from analyses.self_report.run import self_report as run

    with options.progress_bars() as progress:
        finding = run(
            checkpoint,
            reference=other,
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
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.verdict}\n{page}")
