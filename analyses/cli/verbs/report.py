"""`mechguard report`: every analysis that applies to a checkpoint, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.artefacts.steer import Allow, JailbrokenFiles, evaluated, load_policies, tests_for
from analyses.cli.options import AttentionChoice, DtypeChoice
from analyses.cli.verbs.refusal import (
    HarmfulFiles,
    HarmlessFiles,
    NewTokens,
    OverRefusalFiles,
    material,
    measured,
)
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.refusal.material import Material
    from analyses.shared.finding import Finding
    from interp.model.checkpoint import Checkpoint

DEFAULT_MODEL = "organism:bb-plain-3"
FORMAT_VERSION = 1


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
    allow: Allow = None,
    max_new_tokens: NewTokens = 64,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write one report: sinks, refusal if the model chats, and steering by policies."""
    # What cannot be used is refused before the long part.
    prompts = {"harmful": harmful, "harmless": harmless, "over_refusal": over_refusal}
    named = any(prompts.values())
    options.require_folder(out)
    if not policy and (jailbroken or allow):
        raise InputError(
            "--jailbroken and --allow are for measuring policies; give --policy DIR too, or leave "
            "them out."
        )
    domains = options.domains(model, texts)
    checkpoint = options.load_checkpoint(model, dtype, device, revision, trust_remote_code)
    chosen = _prompts(model, checkpoint, prompts, named or bool(policy), limit, seed)
    policies = load_policies(policy or (), checkpoint, allow or ())
    tests = tests_for(model, limit, jailbroken=jailbroken, **prompts) if policy else None
    sinks = options.measured_sinks(
        checkpoint,
        domains,
        length=length,
        max_sequences=max_sequences,
        epsilon=epsilon,
        bos=bos,
        seed=seed,
        limit=limit,
        attention=attention.value,
        causal_sequences=causal_sequences,
    )
    if not options.is_first_rank():
        return
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed}
    findings, caveats = _refusal(checkpoint, chosen, named, **settings)
    if tests is not None:
        findings.append(evaluated(checkpoint, policies, tests, allow=allow or (), **settings))
    _write([sinks, *findings], caveats, out)


def _prompts(
    model: str,
    checkpoint: "Checkpoint",
    files: dict[str, list[str] | None],
    needed: bool,
    limit: int | None,
    seed: int,
) -> "Material | str":
    """What the refusal finding asks, or why it asks nothing.

    Raises:
        InputError: files that cannot be used, or prompts are `needed` and the model does not chat.
    """
    if not getattr(checkpoint.tokenizer, "chat_template", None):
        if needed:
            raise InputError(
                f"{checkpoint.name} has no chat template, so prompts cannot be put to it; leave "
                "--harmful, --harmless, --over-refusal and --policy out, or run `mechguard "
                "refusal` or `mechguard steer eval` with --chat-template."
            )
        return "the checkpoint has no chat template."
    try:
        return material(model, **files, texts=None, equal=True, limit=limit, seed=seed)
    except InputError as error:
        if any(files.values()):
            raise
        return str(error)


def _refusal(
    checkpoint: "Checkpoint", chosen: "Material | str", named: bool, **settings: Any
) -> tuple[list["Finding"], list[str]]:
    """The refusal finding, or a caveat that says why there is none.

    Raises:
        InputError: prompts that the user named cannot be measured.
    """
    if not isinstance(chosen, str):
        try:
            return [measured(checkpoint, chosen, **settings)], []
        except InputError as error:
            if named:
                raise
            chosen = str(error)
    return [], [f"Refusal was not measured: {chosen}"]


def _write(findings: list["Finding"], caveats: list[str], out: Path) -> None:
    """One page, one JSON and the tables of all findings."""
    from analyses.report.render import write

    verdict = " ".join(finding.verdict for finding in findings)
    whole: dict[str, Any] = {
        "kind": "report",
        "format_version": FORMAT_VERSION,
        "verdict": verdict,
        "provenance": findings[0].report["provenance"],
        "findings": {finding.kind: finding.report for finding in findings},
        "caveats": caveats,
    }
    tables = {name: table for finding in findings for name, table in finding.tables.items()}
    page = write(whole, tables, Path(out))
    options.say(f"{verdict}\n{page}")
