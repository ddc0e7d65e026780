"""`mechguard steer`: train a policy, and measure policies side by side."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice
from analyses.cli.verbs.refusal import (
    HarmfulFiles,
    HarmlessFiles,
    OverRefusalFiles,
    Thinking,
)
from interp.checks import MOST_SEED
from steering.training.registry import DEFAULT, summaries

if TYPE_CHECKING:
    from analyses.steering.finding import SteeringFinding
    from interp.checkpoint import Checkpoint
    from steering.policy.policy import Policy

app = typer.Typer(
    help="Train policies that steer towards refusal, and measure them.", no_args_is_help=True
)
JailbrokenFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--jailbroken", help="Harmful prompts that the model answers; repeats.", show_default=False
    ),
]
PromptLimit = Annotated[
    int | None, typer.Option("--limit", help="N prompts of each label only, evenly spaced.", min=1)
]


def _methods() -> str:
    """Every method with what it is, for the help; known without importing torch."""
    lines = [f"{name}: {one[:1].lower()}{one[1:]}" for name, one in summaries().items()]
    return " ".join(lines)


@app.command()
def train(
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the policy.", show_default=False)],
    method: Annotated[str, typer.Option(help=_methods())] = DEFAULT,
    harmful: HarmfulFiles = None,
    harmless: HarmlessFiles = None,
    over_refusal: OverRefusalFiles = None,
    jailbroken: JailbrokenFiles = None,
    fpr: Annotated[
        float, typer.Option(help="False-positive rate of the gate of was-plus.", min=0, max=1)
    ] = 0.01,
    least_tpr: Annotated[
        float | None,
        typer.Option(
            help="Share of harmful prompts that its gate must open for.",
            min=0,
            max=1,
            show_default="0.95",
        ),
    ] = None,
    controller: Annotated[
        str, typer.Option(help="Of was-plus: linear, or mlp on compressed states.")
    ] = "linear",
    end_to_end: Annotated[
        bool, typer.Option(help="Train layer weights of was-plus through the frozen model.")
    ] = True,
    end_to_end_batch: Annotated[int, typer.Option(help="Prompts in a step of that.")] = 32,
    split: Annotated[
        str,
        typer.Option(
            help="Of files: source holds out whole sources where a label has several; or random."
        ),
    ] = "source",
    limit: PromptLimit = None,
    thinking: Thinking = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: Annotated[
        int,
        typer.Option(
            help="Of splits, weights and batches.", callback=options.bounded(0, MOST_SEED)
        ),
    ] = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Train a policy; over-refusal prompts are on its benign side."""
    from analyses.steering.material import training_of
    from analyses.steering.splits import require_split
    from steering.training.calibration import LEAST_TPR
    from steering.training.fit import train as run
    from steering.training.options import Options
    from steering.training.registry import require_method

    require_method(method)
    splitting = require_split(split)
    settings = Options(
        fpr=fpr,
        least_tpr=LEAST_TPR if least_tpr is None else least_tpr,
        controller=controller,
        end_to_end=end_to_end,
        end_to_end_batch=end_to_end_batch,
        seed=seed,
    )
    options.require_folder(out)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    given = training_of(
        checkpoint,
        {
            "harmful": harmful,
            "harmless": harmless,
            "alarming": over_refusal,
            "jailbroken": jailbroken,
        },
        template={} if thinking is None else {"enable_thinking": thinking},
        limit=limit,
        seed=seed,
        split=splitting,
    )
    with options.progress_bars() as progress:
        policy = run(
            checkpoint, given, method, settings, workdir=options.workdir(), progress=progress
        )
    if options.is_first_rank():
        _show_training(policy)
        options.say(str(policy.save(out)))


@app.command("eval")
def evaluate(
    model: options.Model,
    policy: Annotated[list[Path], typer.Option("--policy", help="Folder of a policy; repeats.")],
    out: options.Out,
    harmful: HarmfulFiles = None,
    harmless: HarmlessFiles = None,
    over_refusal: OverRefusalFiles = None,
    jailbroken: JailbrokenFiles = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer, at most.")] = 32,
    limit: PromptLimit = None,
    scorer: options.Scorer = None,
    thinking: Thinking = None,
    allow: options.Allow = None,
    any_model: options.AnyModel = False,
    overwrite: options.Overwrite = False,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure policies on held-out prompts, beside the unsteered model; write a report."""
    from analyses.steering.material import tests_of
    from analyses.steering.run import steering
    from interp.data.prompt_sets import PromptSet
    from probes.scorers import judge_from

    options.require_folder(out)
    files = {
        "harmful": harmful,
        "jailbroken": jailbroken,
        "harmless": harmless,
        "over_refusal": over_refusal,
    }
    tests = tests_of(model, files, limit)
    digests = [PromptSet(some).sha256 for some in tests.sets.values()]
    options.claim(out, "steering", model, overwrite, digests)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    policies = load_policies(policy, checkpoint, options.allowed(allow, any_model))
    with options.progress_bars() as progress:
        finding = steering(
            checkpoint,
            policies,
            tests,
            scorer=None if scorer is None else judge_from(scorer),
            max_new_tokens=max_new_tokens,
            template={} if thinking is None else {"enable_thinking": thinking},
            allow=options.allowed(allow, any_model),
            seed=seed,
            command=options.command_line(),
            progress=progress,
        )
    if options.is_first_rank():
        _show(finding)
        options.say(f"{finding.verdict}\n{finding.save(out, overwrite=overwrite)}")


def load_policies(
    folders: Sequence[Path], checkpoint: "Checkpoint", allow: Collection[str] = ()
) -> list["Policy"]:
    """Policies that belong to the checkpoint.

    Raises:
        InputError: a folder without a policy, or one of another model, template or layout.
    """
    from steering.policy.policy import Policy

    return [Policy.load(folder, checkpoint, allow=allow) for folder in folders]


def _show_training(policy: "Policy") -> None:
    record = policy.meta["training"]
    chosen = next(trial for trial in record["trials"] if trial["chosen"])
    setting = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in chosen.items()
        if key in ("layer", "span", "strength")
    )
    options.say(
        f"{policy.method}: {setting} of {len(record['trials'])} settings; on validation prompts "
        f"{chosen['refused']:.1%} refused that should be, {chosen['over']:.1%} of benign ones."
    )
    if record["calibration"] is not None:
        gate = record["calibration"]
        opened = ", ".join(f"{rate:.1%} of {kind}" for kind, rate in gate["tpr"].items())
        options.say(
            f"gate: threshold {gate['threshold']:.3g} set on {gate['set_on']} benign prompts; on "
            f"validation prompts it opens for {gate['fpr']:.1%} of benign, {opened} ones."
        )
    descent, size = record["end_to_end"], record["size"]
    if descent is not None:
        options.say(
            f"end to end: {descent['steps']} steps, taken after {descent['best']}, where the loss "
            f"of validation prompts was lowest ({min(descent['held']):.3g})."
        )
    much = f", above the {size['aim']:.1%} that are aimed at" * (size["share"] > size["aim"])
    options.say(
        f"controller: {size['parameters']} parameters, {size['share']:.2%} of the model's{much}."
    )
    for label, how in record["prompts"]["split"].items():
        options.say(f"validation of {label} prompts, {how}.")


def _show(finding: "SteeringFinding") -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = ("jailbroken", "harmful", "harmless", "over_refusal")
    named = [name.replace("_", "-\n") for name in columns]
    table = Table("policy", *named, "benign\nKL", "speed", box=box.SIMPLE, padding=0)
    for row in finding.report["policies"]:
        rates = [row["rates"][name] for name in columns]
        table.add_row(
            escape(row["name"]),
            *(
                "–"
                if one is None
                else f"{one['rate']:.3f}\n{one['interval'][0]:.2f}–{one['interval'][1]:.2f}"
                for one in rates
            ),
            f"{row['benign_kl']:.3g}",
            f"{row['throughput_ratio']:.2f}",
        )
    Console().print(table)
