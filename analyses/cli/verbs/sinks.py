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
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure attention sinks, value drains, residual peaks and gates; write a report."""
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
    page = finding.save(out)
    options.say(f"{finding.verdict}\n{page}")
