"""`mechguard report`: every analysis that applies to a checkpoint, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import AttentionChoice, DtypeChoice
from analyses.cli.refusal import (
    HarmfulFiles,
    HarmlessFiles,
    NewTokens,
    OverRefusalFiles,
    material,
    measured,
)

if TYPE_CHECKING:
    from analyses.finding import Finding
    from interp.checkpoint import Checkpoint

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
    max_new_tokens: NewTokens = 64,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Run every analysis that applies and write one report: sinks, and refusal if it chats."""
    options.require_folder(out)
    domains = options.domains(model, texts)
    checkpoint = options.load_checkpoint(model, dtype, device, revision, trust_remote_code)
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
    prompts = harmful, harmless, over_refusal
    refused = _refusal(model, checkpoint, prompts, max_new_tokens, limit, seed)
    _write([sinks, *refused[0]], refused[1], out)


def _refusal(
    model: str,
    checkpoint: "Checkpoint",
    prompts: tuple[list[str] | None, list[str] | None, list[str] | None],
    max_new_tokens: int,
    limit: int | None,
    seed: int,
) -> tuple[list["Finding"], list[str]]:
    """The refusal finding, or a caveat that says why there is none."""
    from interp.errors import InputError

    if not getattr(checkpoint.tokenizer, "chat_template", None):
        if any(prompts):
            raise InputError(
                f"{checkpoint.name} has no chat template, so prompts cannot be put to it; leave "
                "--harmful, --harmless and --over-refusal out, or run `mechguard refusal` with "
                "--chat-template."
            )
        return [], ["Refusal was not measured: the checkpoint has no chat template."]
    try:
        chosen = material(model, *prompts, None, True, limit, seed)
        finding = measured(checkpoint, chosen, max_new_tokens=max_new_tokens, seed=seed)
    except InputError as error:
        if any(prompts):
            raise
        return [], [f"Refusal was not measured: {error}"]
    return [finding], []


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
