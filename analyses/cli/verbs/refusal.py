"""`mechguard refusal`: the refusal report of a checkpoint."""

from typing import Annotated

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice

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
    scorer: options.Scorer = None,
    thinking: Thinking = None,
    overwrite: options.Overwrite = False,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure harmfulness, refusal, and what the refusal direction does; write a report."""
    from analyses.refusal.material import material_of
    from analyses.refusal.run import refusal as run
    from interp.data.rows import read_texts
    from probes.collections.plan import parse_layers
    from probes.scorers import judge_from

    options.require_folder(out)
    chosen = material_of(
        model,
        {"harmful": harmful, "harmless": harmless, "alarming": over_refusal},
        texts=[document for name in texts or () for document in read_texts(name).documents],
        equal=equalise,
        limit=limit,
        seed=seed,
    )
    digests = [part.sha256 for part in chosen.parts.values()]
    options.claim(out, "refusal", model, overwrite, digests)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    with options.progress_bars() as progress:
        finding = run(
            checkpoint,
            chosen,
            scorer=None if scorer is None else judge_from(scorer),
            max_new_tokens=max_new_tokens,
            layers=None if layers is None else parse_layers(layers, checkpoint.anatomy.n_layers),
            template={} if thinking is None else {"enable_thinking": thinking},
            seed=seed,
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
        )
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.verdict}\n{page}")
