"""`mechguard report`: every analysis that applies to a checkpoint, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import AttentionChoice, DtypeChoice

if TYPE_CHECKING:
    from interp.prompts import Texts

DEFAULT_MODEL = "organism:bb-plain-3"
FORMAT_VERSION = 1


def report(
    out: options.Out,
    model: Annotated[
        str, typer.Argument(help="Hub id, local folder, or organism:NAME.")
    ] = DEFAULT_MODEL,
    texts: Annotated[
        list[str] | None,
        typer.Option("--texts", help="As in `sinks`; an organism brings texts of its own."),
    ] = None,
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
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Run every analysis that applies (today: sinks) and write one report."""
    from analyses.report.render import write

    options.require_folder(out)
    domains = _texts(model, texts)
    finding = options.measured_sinks(
        options.load_checkpoint(model, dtype, device, revision, trust_remote_code),
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
    whole: dict[str, Any] = {
        "kind": "report",
        "format_version": FORMAT_VERSION,
        "verdict": finding.verdict,
        "provenance": finding.report["provenance"],
        "findings": {finding.kind: finding.report},
        "caveats": [],
    }
    page = write(whole, finding.tables, Path(out))
    options.say(f"{finding.verdict}\n{page}")


def _texts(model: str, files: list[str] | None) -> list["Texts"]:
    """The domains to run on.

    Raises:
        InputError: a model that brings no texts needs `--texts`.
    """
    from interp.errors import InputError
    from interp.prompts import as_texts, read_texts

    if files:
        return [read_texts(name) for name in files]
    if not model.startswith("organism:"):
        raise InputError(
            f"{model} needs --texts FILE: only organisms bring texts of their own (try "
            "`mechguard report --out DIR` for one)."
        )
    from interp import organisms

    texts = organisms.texts(model.removeprefix("organism:"))
    return [as_texts(domain, documents) for domain, documents in texts.items()]
