"""`mechguard cliff`: does refusal fall at the end of a model's thought?"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice

if TYPE_CHECKING:
    from analyses.cliff.training import TrainedCopy, Training

_KINDS = ".csv, .jsonl, .json, .parquet, .txt or the name of a data set; may be given again."


class SelectorChoice(StrEnum):
    """Which training examples come first."""

    cliff = "cliff"
    final = "final"
    rule = "rule"
    random = "random"


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
    scorer: options.Scorer = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="Fine-tune a copy to refuse on selected training requests, write that checkpoint "
            "here, and compare the two on held-out requests; exit code 1 if refusal does not rise.",
            show_default=False,
        ),
    ] = None,
    train_percent: Annotated[
        float, typer.Option(help="With --train: per cent of the harmful training requests.")
    ] = 1.7,
    train_selector: Annotated[
        SelectorChoice, typer.Option(help="With --train: how those requests are chosen.")
    ] = SelectorChoice.cliff,
    train_steps: Annotated[
        int, typer.Option(help="With --train: steps of AdamW, of 16 examples each.", min=1)
    ] = 60,
    limit: Annotated[
        int | None, typer.Option(help="Requests of each class in a part, at most.", min=4)
    ] = None,
    seed: options.Seed = 0,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Follow refusal along the thought, find its cliff and the heads behind it; write a report.

    Besides the report, OUT/selected holds training examples in the order of each selector.
    """
    from analyses.cliff.material import requests_of

    options.require_folder(out)
    training = _training(train, train_percent, train_selector, train_steps, seed)
    requests = requests_of(
        model, {"harmful": harmful, "harmless": harmless}, limit=limit, seed=seed
    )
    options.claim(out, "cliff", model, overwrite, [requests.train.sha256, requests.test.sha256])
    checkpoint = options.load_checkpoint(model, dtype, device, revision, trust_remote_code)
    from analyses.cliff.run import cliff as measured
    from probes.scorers import judge_from

    with options.progress_bars() as progress:
        finding = measured(
            checkpoint,
            requests,
            scorer=None if scorer is None else judge_from(scorer),
            stop_text=stop_text,
            thinking_budget=thinking_budget,
            max_new_tokens=max_new_tokens,
            share_of_heads=share_of_heads,
            exhaustive=exhaustive,
            seed=seed,
            workdir=options.workdir(),
            select_to=out / "selected",
            train=training,
            command=options.command_line(),
            progress=progress,
        )
    if not options.is_first_rank():
        return
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.verdict}\n{page}")
    if finding.trained is not None:
        _say_training(finding.trained)


def _training(
    folder: Path | None, percent: float, selector: SelectorChoice, steps: int, seed: int
) -> "Training | None":
    """What to train, checked before anything is loaded.

    Raises:
        InputError: a folder in use, or a percentage that chooses nothing.
    """
    from analyses.cliff.training import Training
    from interp.model.saving import require_unused
    from probes.cliff.fine_tuning import FineTuningPlan

    if folder is None:
        return None
    options.require_folder(folder)
    require_unused(folder)
    plan = FineTuningPlan(steps=steps, seed=seed)
    return Training(folder, percent, selector.value, plan, options.say)


def _say_training(trained: "TrainedCopy") -> None:
    """Say what the copy refuses, or fail if training did not help.

    Raises:
        CheckError: refusal of harmful requests did not rise, or that of harmless ones did.
    """
    from interp.errors import CheckError

    options.say("\n".join([*trained.sentences(), str(trained.folder)]))
    if not trained.restored:
        raise CheckError(
            f"fine-tuning did not restore refusal: on held-out harmful requests the copy in "
            f"{trained.folder} refuses no more than the model, intervals apart; give more examples "
            "with --train-percent, or more steps with --train-steps."
        )
    if trained.over_refused:
        raise CheckError(
            f"the copy in {trained.folder} refuses more harmful requests, but also more "
            f"{' and '.join(trained.over_refused)} ones, intervals apart; give more harmless "
            "requests with --harmless, or fewer steps with --train-steps."
        )
