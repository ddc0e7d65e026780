"""`mechguard report`: every analysis that applies to a checkpoint, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.artefacts.steer import JailbrokenFiles, load_policies
from analyses.cli.options import AttentionChoice, DtypeChoice
from analyses.cli.verbs.refusal import HarmfulFiles, HarmlessFiles, NewTokens, OverRefusalFiles
from interp.errors import InputError

if TYPE_CHECKING:
    from interp.checkpoint import Checkpoint
    from interp.data.prompt_sets import PromptSet

DEFAULT_MODEL = "organism:bb-plain-3"


def report(
    out: options.Out,
    model: Annotated[
        str, typer.Argument(help="Hub id, local folder, or organism:NAME.")
    ] = DEFAULT_MODEL,
    texts: options.TextFiles = None,
    length: options.Length = 64,
    max_sequences: options.MaxSequences = 100,
    epsilon: options.Epsilon = 0.3,
    bos: options.Bos = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    limit: options.Limit = None,
    attention: options.Attention = AttentionChoice.auto,
    causal_sequences: options.CausalSequences = 16,
    harmful: HarmfulFiles = None,
    harmless: HarmlessFiles = None,
    over_refusal: OverRefusalFiles = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            "--policy", help="Folder of a policy to measure as well; repeats.", show_default=False
        ),
    ] = None,
    jailbroken: JailbrokenFiles = None,
    allow: options.Allow = None,
    any_model: options.AnyModel = False,
    reference: options.Reference = None,
    minutes: Annotated[
        float,
        typer.Option(
            help="Minutes of wall clock, after which no analysis is begun.",
            callback=options.bounded(0),
        ),
    ] = 10.0,
    max_new_tokens: NewTokens = 64,
    overwrite: options.Overwrite = False,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write one report of every analysis that applies, within a budget of time.

    What was not measured is listed with the reason.
    """
    # What cannot be used is refused before the long part.
    options.require_folder(out)
    if not policy and (jailbroken or allow or any_model):
        raise InputError(
            "--jailbroken, --allow and --any-model are for measuring policies; give --policy DIR "
            "too, or leave them out."
        )
    domains = options.domains(model, texts)
    prompts = _prompts(harmful, harmless, over_refusal, jailbroken)
    from analyses.whole_report import given_data
    from analyses.whole_report import report as run

    data = [entry.sha256 for entry in given_data(domains, prompts)]
    options.claim(out, "report", model, overwrite, data)
    load = (dtype, device, revision, trust_remote_code)
    checkpoint = options.load_checkpoint(model, *load)
    _require_usable(checkpoint, prompts, bool(policy), limit)
    sinks: dict[str, Any] = {
        "length": length,
        "max_sequences": max_sequences,
        "epsilon": epsilon,
        "bos": bos,
        "attention": attention.value,
        "causal_sequences": causal_sequences,
    }
    with options.progress_bars() as progress:
        finding = run(
            checkpoint,
            prompts,
            texts=domains,
            reference=options.load_reference(reference, *load),
            policies=load_policies(policy or (), checkpoint, options.allowed(allow, any_model)),
            allow=options.allowed(allow, any_model),
            minutes=minutes,
            max_new_tokens=max_new_tokens,
            limit=limit,
            seed=seed,
            settings={"sinks": sinks},
            insist=_named(prompts, bool(policy)),
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
        )
    if not options.is_first_rank():
        return
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.verdict}\n{page}")


def _prompts(
    harmful: list[str] | None,
    harmless: list[str] | None,
    over_refusal: list[str] | None,
    jailbroken: list[str] | None,
) -> "dict[str, PromptSet]":
    """The prompts of files, by label."""
    from analyses.shared.data import labelled

    given = {
        "harmful": harmful,
        "harmless": harmless,
        "alarming": over_refusal,
        "jailbroken": jailbroken,
    }
    return labelled(given, tuple(given))


def _named(prompts: "dict[str, PromptSet]", policies: bool) -> tuple[str, ...]:
    """The analyses that were asked for by what was given: their failure is an error."""
    refusal = ("refusal",) if set(prompts) - {"jailbroken"} else ()
    return (*refusal, "steering") if policies else refusal


def _require_usable(
    checkpoint: "Checkpoint", prompts: "dict[str, PromptSet]", policies: bool, limit: int | None
) -> None:
    """Refuse prompts and policies that cannot be used, before anything is measured.

    Raises:
        InputError: they are given for a model that does not chat, or prompts of one side only.
    """
    from analyses.refusal.material import material_of
    from analyses.steering.material import tests_of

    if not (prompts or policies):
        return
    if not getattr(checkpoint.tokenizer, "chat_template", None):
        raise InputError(
            f"{checkpoint.name} has no chat template, so prompts cannot be put to it; leave "
            "--harmful, --harmless, --over-refusal and --policy out, or run `mechguard "
            "refusal` or `mechguard steer eval` with --chat-template."
        )
    asked = {label: some for label, some in prompts.items() if label != "jailbroken"}
    if asked:
        material_of(checkpoint.name, asked, limit=limit)
    if policies:
        tests_of(checkpoint.name, prompts, limit)
