"""`mechguard refusal`: the refusal report of a checkpoint."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice

if TYPE_CHECKING:
    from analyses.refusal.finding import RefusalFinding
    from analyses.refusal.material import Material
    from interp.checkpoint import Checkpoint

_FILES = ".csv, .jsonl, .parquet, .json, .txt, a data set, or NAME or NAME=PATH of a published set"
HarmfulFiles = Annotated[
    list[str] | None,
    typer.Option("--harmful", help=f"Harmful prompts: {_FILES}; repeats.", show_default=False),
]
HarmlessFiles = Annotated[
    list[str] | None,
    typer.Option("--harmless", help="Harmless prompts, likewise; repeats.", show_default=False),
]
OverRefusalFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--over-refusal", help="Harmless prompts that sound alarming; repeats.", show_default=False
    ),
]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Tokens of an answer, at most.")]
PromptLimit = Annotated[
    int | None,
    typer.Option("--limit", help="Prompts of a label in each part, at most.", show_default=False),
]
JudgeSpec = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="An external scorer: MODULE:FUNCTION, or the folder of a sequence classifier.",
        show_default=False,
    ),
]
Thinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Pass enable_thinking to the chat template [default: as the template does].",
    ),
]


def refusal(
    model: options.Model,
    out: options.Out,
    harmful: HarmfulFiles = None,
    harmless: HarmlessFiles = None,
    over_refusal: OverRefusalFiles = None,
    texts: options.TextFiles = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Candidates are of these layers, such as 4-12 or 3,5 [default: all]."),
    ] = None,
    max_new_tokens: NewTokens = 64,
    limit: PromptLimit = None,
    equalise: options.Equalise = True,
    judge: JudgeSpec = None,
    thinking: Thinking = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure harmfulness, refusal, and what the refusal direction does; write a report."""
    from probes.collections.plan import parse_layers

    options.require_folder(out)
    chosen = material(model, harmful, harmless, over_refusal, texts, equalise, limit, seed)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    finding = measured(
        checkpoint,
        chosen,
        max_new_tokens=max_new_tokens,
        layers=None if layers is None else parse_layers(layers, checkpoint.anatomy.n_layers),
        seed=seed,
        judge=judge,
        thinking=thinking,
    )
    page = finding.save(out)
    options.say(f"{finding.verdict}\n{page}")


def material(
    model: str,
    harmful: list[str] | None,
    harmless: list[str] | None,
    over_refusal: list[str] | None,
    texts: list[str] | None,
    equal: bool,
    limit: int | None,
    seed: int,
) -> "Material":
    """The prompts to run on: files, an organism's own, or the built-in set.

    Raises:
        InputError: files of one kind only, or unreadable ones.
    """
    from analyses.refusal.material import material_of
    from interp.data.rows import read_texts

    return material_of(
        model,
        {"harmful": harmful, "harmless": harmless, "alarming": over_refusal},
        texts=[document for name in texts or () for document in read_texts(name).documents],
        equal=equal,
        limit=limit,
        seed=seed,
    )


def measured(
    checkpoint: "Checkpoint",
    chosen: "Material",
    *,
    judge: str | None = None,
    thinking: bool | None = None,
    **settings: Any,
) -> "RefusalFinding":
    """The refusal finding, with progress on stderr; `settings` go to `analyses.refusal`."""
    from analyses.refusal.run import refusal as run
    from probes.scorers import judge_from

    with options.progress_bars() as progress:
        return run(
            checkpoint,
            chosen,
            judge=None if judge is None else judge_from(judge),
            template={} if thinking is None else {"enable_thinking": thinking},
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
            **settings,
        )
