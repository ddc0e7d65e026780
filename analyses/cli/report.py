"""`mechguard report`: every analysis that applies to a checkpoint, on one page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.options import AttentionChoice, DtypeChoice

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
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Run every analysis that applies (today: sinks) and write one report."""
    from analyses.report.render import write

    options.require_folder(out)
    domains = options.domains(model, texts)
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
