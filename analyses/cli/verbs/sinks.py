"""`mechguard sinks`: the sink report of a checkpoint."""

from analyses.cli import options
from analyses.cli.options import AttentionChoice, DtypeChoice


def sinks(
    model: options.Model,
    out: options.Out,
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
    overwrite: options.Overwrite = False,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure attention sinks, value drains, residual peaks and gates; write a report."""
    options.require_folder(out)
    domains = options.domains(model, texts)
    options.claim(out, "sinks", model, overwrite, [one.sha256 for one in domains])
    checkpoint = options.load_checkpoint(model, dtype, device, revision, trust_remote_code)
    from analyses.sinks.run import sinks as run

    with options.progress_bars() as progress:
        finding = run(
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
            workdir=options.workdir(),
            command=options.command_line(),
            progress=progress,
        )
    if not options.is_first_rank():
        return
    page = finding.save(out, overwrite=overwrite)
    options.say(f"{finding.verdict}\n{page}")
