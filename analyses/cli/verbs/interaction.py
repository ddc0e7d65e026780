"""`mechguard interaction`: do two suspected switches work together?"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import DtypeChoice
from analyses.cli.verbs.refusal import Thinking
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.interaction.material import Quantity, Words
    from analyses.shared.running import Progress
    from interp.checkpoint import Checkpoint
    from probes.backdoors.switches.switches import Switch


class PlaceChoice(StrEnum):
    """Where a switch of words stands."""

    front = "front"
    end = "end"
    system = "system"


class MeasureChoice(StrEnum):
    """What of a reply is measured."""

    refusal = "refusal"
    text = "text"
    reply = "reply"


_PLACES = "in front of the request, behind it, or in the system message"


def interaction(
    model: options.Model,
    out: options.Out,
    first: Annotated[
        str | None, typer.Option(help="Words of the first switch.", show_default=False)
    ] = None,
    second: Annotated[
        str | None, typer.Option(help="Words of the second.", show_default=False)
    ] = None,
    first_adapter: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an adapter that is the first switch (LoRA, as peft writes it).",
            show_default=False,
        ),
    ] = None,
    second_adapter: Annotated[
        Path | None, typer.Option(help="The same for the second.", show_default=False)
    ] = None,
    other_adapter: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of an adapter that is not suspected, to stand in the place of one; "
            "repeats.",
            show_default=False,
        ),
    ] = None,
    first_at: Annotated[PlaceChoice, typer.Option(help=f"Where: {_PLACES}.")] = PlaceChoice.front,
    second_at: Annotated[PlaceChoice, typer.Option(help="The same.")] = PlaceChoice.front,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help=".csv, .jsonl, .json, .parquet, .txt, or the name of a data set; repeats "
            "[default: an organism's held-out prompts, or the built-in ones].",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        MeasureChoice | None,
        typer.Option(
            help="refusal: log-odds that the reply opens with a refusal token. text: "
            "log-probability that it begins with --text. reply: whether the greedy reply holds "
            "--text [default: text with --text, else refusal].",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Such as a payload that is suspected.", show_default=False),
    ] = None,
    distractors: Annotated[
        Path | None,
        typer.Option(
            help="Strings that are not suspected, one a line, for the places of both [default: "
            "drawn, of each switch's length in tokens].",
            show_default=False,
        ),
    ] = None,
    null: Annotated[
        int, typer.Option(help="Strings drawn for each place; 19 let p reach 0.05.", min=0)
    ] = 19,
    limit: Annotated[int, typer.Option(help="Prompts of each label, at most.", min=1)] = 40,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a reply.", min=1)] = 64,
    thinking: Thinking = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure whether two switches do more together than apart, and write a report."""
    from analyses.interaction.material import prompts_of

    _require_two(first, first_adapter, "first")
    _require_two(second, second_adapter, "second")
    if other_adapter and not (first_adapter or second_adapter):
        raise InputError("--other-adapter stands in the place of an adapter, and none is given.")
    kind = _kind(measure, text)
    named = None if distractors is None else options.lines_of(distractors, "--distractors")
    both = kind == MeasureChoice.refusal
    asked = prompts_of(prompts or None, model, both=both, limit=limit)
    options.claim(out, "interaction", model, overwrite, [asked.sha256])
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    from analyses.interaction.run import interaction as run
    from probes.backdoors.switches.adapters import adapter_switches

    words = (first, first_at), (second, second_at)
    template = {} if thinking is None else {"enable_thinking": thinking}
    suspected = [folder for folder in (first_adapter, second_adapter) if folder is not None]
    folders = [*suspected, *(other_adapter or ())]
    with adapter_switches(checkpoint, folders) as adapters, options.progress_bars() as progress:
        pair, nulls = _switches(checkpoint, words, adapters, len(suspected), named)
        finding = run(
            checkpoint,
            pair[0],
            pair[1],
            asked,
            quantity=_quantity(checkpoint, model, kind, text, max_new_tokens, template, progress),
            first_distractors=nulls[0],
            second_distractors=nulls[1],
            null=null,
            template=template,
            seed=seed,
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
        )
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.verdict}\n{page}")


def _require_two(text: str | None, adapter: Path | None, place: str) -> None:
    if (text is None) == (adapter is None):
        raise InputError(
            f"the {place} switch is one of words (--{place} TEXT) or an adapter "
            f"(--{place}-adapter DIR); give one of both."
        )


def _switches(
    checkpoint: "Checkpoint",
    words: "tuple[tuple[str | None, PlaceChoice], ...]",
    adapters: "list[Switch]",
    suspected: int,
    named: list[str] | None,
) -> "tuple[list[Words | Switch], list[list[Words | Switch] | None]]":
    """The two switches, and what stands in the place of each; None for strings that are drawn."""
    from analyses.interaction.material import Words
    from analyses.shared.distractors import tokens_of

    waiting = iter(adapters[:suspected])
    pair: list[Words | Switch] = []
    nulls: list[list[Words | Switch] | None] = []
    for text, place in words:
        if text is None:
            pair.append(next(waiting))
            nulls.append([*adapters[suspected:]])
            continue
        tokens_of(checkpoint, text)  # before anything is measured
        pair.append(Words(text, place.value))
        nulls.append(None if named is None else [Words(one, place.value) for one in named])
    return pair, nulls


def _kind(measure: MeasureChoice | None, text: str | None) -> MeasureChoice:
    """What is measured.

    Raises:
        InputError: a text is missing, or given where none is needed.
    """
    if measure is None:
        return MeasureChoice.refusal if text is None else MeasureChoice.text
    if measure == MeasureChoice.refusal and text is not None:
        raise InputError("--text goes with --measure text or reply, and not with refusal.")
    if measure != MeasureChoice.refusal and text is None:
        raise InputError(f"--measure {measure} needs --text, what the reply is to say.")
    return measure


def _quantity(
    checkpoint: "Checkpoint",
    model: str,
    kind: MeasureChoice,
    text: str | None,
    max_new_tokens: int,
    template: dict[str, Any],
    progress: "Progress",
) -> "Quantity":
    from analyses.interaction import material
    from analyses.refusal.material import material_of

    if kind == MeasureChoice.text:
        return material.text_quantity(text or "")
    if kind == MeasureChoice.reply:
        return material.reply_quantity(text or "", max_new_tokens)
    return material.refusal_quantity(
        checkpoint,
        material_of(model),
        template=template,
        max_new_tokens=max_new_tokens,
        progress=progress,
    )
