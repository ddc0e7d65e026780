"""`mechguard guard`: fit a guard and say what it is worth, and score prompts with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice

if TYPE_CHECKING:
    import pandas as pd

    from analyses.cli.guard_prompts import GuardPrompts
    from probes.guards.evaluation import Evaluation
    from probes.guards.guard import Guard

app = typer.Typer(
    help="Score prompts by what the model holds at the end of the instruction.",
    no_args_is_help=True,
)

_DEFAULT_FPR = 0.01
_KINDS = ".csv, .jsonl, .json, .parquet, .txt or the name of a data set; may be given again."


@app.command()
def fit(
    model: options.Model,
    out: Annotated[
        Path, typer.Option("--out", help="File for the guard (.safetensors).", show_default=False)
    ],
    harmful: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Harmful prompts: {_KINDS} Left out: an organism's own, or the built-in ones.",
            show_default=False,
        ),
    ] = None,
    harmless: Annotated[
        list[str] | None,
        typer.Option(help="Harmless prompts, in the same forms.", show_default=False),
    ] = None,
    benign: Annotated[
        list[str] | None,
        typer.Option(
            help="Traffic as it will come in, to set the threshold on: at least 6 / FPR prompts.",
            show_default=False,
        ),
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(
            help="Wanted false-positive rate.", min=0, max=1, show_default=f"{_DEFAULT_FPR:g}"
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="centred, paper (as published: all layers, threshold 0) or probe."),
    ] = "centred",
    equalise: options.Equalise = True,
    seed: options.Seed = 0,
    limit: Annotated[
        int | None, typer.Option(help="Take the first N prompts of each label only.", min=1)
    ] = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Fit a guard, set its threshold, and measure it on prompts that nothing was fitted on."""
    from analyses.cli.guard_prompts import guard_prompts
    from interp.errors import InputError
    from probes.guards.guard import Guard
    from probes.guards.readout import require_method

    kind = require_method(method)
    if kind == "paper" and fpr is not None:
        raise InputError("the threshold of --method paper is 0 as published; leave --fpr out.")
    options.require_folder(out.absolute().parent)
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file for the guard.")
    rate = None if kind == "paper" else (_DEFAULT_FPR if fpr is None else fpr)
    prompts = guard_prompts(
        model,
        harmful,
        harmless,
        benign,
        fpr=rate,
        insist=fpr is not None,
        seed=seed,
        limit=limit,
        equal=equalise,
    )
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    with options.progress_bars() as progress:
        guard = Guard.fit(
            checkpoint,
            prompts.harmful,
            prompts.harmless,
            benign=prompts.benign,
            fpr=_DEFAULT_FPR if rate is None else rate,
            method=kind,
            template=prompts.template,
            seed=seed,
            progress=lambda done, total: progress("prompts", done, total),
        )
    guard = replace(guard, record={**guard.record, "surface": prompts.surface})
    guard = guard.calibrated(prompts.calibrating_harmful, prompts.calibrating_harmless)
    evaluation = guard.evaluate(prompts.test_harmful, prompts.test_benign)
    if not options.is_first_rank():
        return
    guard.save(out, evaluation)
    _show(guard, evaluation, prompts, out)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="Guard from `fit`.", show_default=False)],
    model: options.Model,
    messages: Annotated[str, typer.Option(help=f"Prompts to score: {_KINDS}", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
    allow: options.Allow = None,
    any_model: options.AnyModel = False,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Print the score and the decision for each prompt of a file."""
    from interp.data.prompt_sets import read_prompts
    from probes.guards.guard import Guard

    prompts = read_prompts(messages, "unlabelled")
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    guard = Guard.load(file, checkpoint, allow=options.allowed(allow, any_model))
    with options.progress_bars() as progress:
        scores = guard.score_many(
            [prompt.messages for prompt in prompts],
            progress=lambda done, total: progress("prompts", done, total),
        )
    if not options.is_first_rank():
        return
    lines = [
        {
            "score": one.score,
            "flagged": one.flagged,
            "probability": one.probability,
            "text": prompt.text,
        }
        for prompt, one in zip(prompts, scores, strict=True)
    ]
    if as_json:
        for line in lines:
            options.say(json.dumps(line, ensure_ascii=False))
    else:
        _show_scores(lines, guard)


def _show(guard: "Guard", evaluation: "Evaluation", prompts: "GuardPrompts", out: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_measured(guard, evaluation))
    if len(evaluation.by_source) > 1:
        console.print(_by_source(evaluation))
    if evaluation.reliability is not None:
        console.print(_reliability(evaluation.reliability))
    for rate, why in evaluation.refused.items():
        console.print(f"TPR at {rate:.1%} FPR is not given: {why}", soft_wrap=True)
    for caveat in prompts.caveats:
        console.print(caveat, soft_wrap=True)
    console.print(str(out), soft_wrap=True)


def _measured(guard: "Guard", evaluation: "Evaluation") -> Any:
    """What the guard is worth on held-out prompts."""
    table = _table("quantity", "measured", "n", "95 % interval")
    threshold, area, at = guard.threshold, evaluation.auroc, evaluation.at_threshold
    note = "as published, or for want of benign traffic"
    if threshold.wanted_fpr is not None:
        note = f"set for FPR {threshold.wanted_fpr:g}"
    table.add_row("threshold", f"{threshold.value:.4f}", "", note)
    if threshold.fpr is not None and threshold.fpr_interval is not None:
        table.add_row(
            "FPR, benign half not set on",
            f"{threshold.fpr:.4f}",
            str(threshold.benign),
            _span(threshold.fpr_interval),
        )
    table.add_row(
        "AUROC, test",
        f"{area.value:.4f}",
        f"{area.positives} + {area.negatives}",
        _span(area.interval),
    )
    points = {"threshold": at} | {f"{r:.1%} FPR": p for r, p in evaluation.tpr_at_fpr.items()}
    for name, point in points.items():
        if point.tpr is not None and point.tpr_interval is not None:
            table.add_row(
                f"TPR at {name}, test",
                f"{point.tpr:.4f}",
                str(point.positives),
                _span(point.tpr_interval),
            )
    table.add_row(
        "FPR at threshold, test", f"{at.fpr:.4f}", str(at.negatives), _span(at.fpr_interval)
    )
    return table


def _by_source(evaluation: "Evaluation") -> Any:
    table = _table("source", "label", "FPR", "n", "95 % interval")
    for row in evaluation.by_source.to_dict("records"):
        interval = _span((row["low"], row["high"]))
        table.add_row(row["source"], row["label"], f"{row['fpr']:.4f}", str(row["n"]), interval)
    return table


def _reliability(curve: "pd.DataFrame") -> Any:
    table = _table("predicted probability", "observed", "n", "95 % interval")
    for row in curve.to_dict("records"):
        interval = _span((row["low"], row["high"]))
        table.add_row(f"{row['predicted']:.3f}", f"{row['observed']:.3f}", str(row["n"]), interval)
    return table


def _show_scores(lines: list[dict[str, Any]], guard: "Guard") -> None:
    from rich.console import Console

    table = _table("score", "decision", "probability", "prompt")
    for line in lines:
        likely = "" if line["probability"] is None else f"{line['probability']:.3f}"
        words = " ".join(line["text"].split())
        table.add_row(
            f"{line['score']:.4f}",
            "flagged" if line["flagged"] else "passed",
            likely,
            words if len(words) <= 60 else words[:59] + "…",
        )
    console = Console(highlight=False)
    console.print(table)
    flagged = sum(line["flagged"] for line in lines)
    console.print(f"{flagged} of {len(lines)} above the threshold {guard.threshold.value:.4f}.")


def _table(*headings: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(*headings, box=box.SIMPLE)


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
