"""`analyses.sinks`: from a checkpoint and texts to a sink finding."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from analyses.shared.data import TextData, domains_of
from analyses.shared.reports import RunFacts
from analyses.shared.running import Progress, Stopwatch, model_facts, own_folder, stage
from analyses.sinks.causal import CausalEffects, causal_effects
from analyses.sinks.finding import SinkFinding, build
from analyses.sinks.measure import measure, parity
from analyses.sinks.report import DomainEntry, SinkProvenance
from interp.attention.statistics import AttentionPath, require_interface
from interp.capture import ranks
from interp.checkpoint import Checkpoint
from interp.data.rows import Row, Rows, Texts, id_rows, text_rows
from interp.errors import InputError
from interp.resume.run_folder import exclusive

log = logging.getLogger("mechguard.sinks")


def sinks(
    checkpoint: Checkpoint,
    data: TextData = None,
    *,
    token_ids: Mapping[str, Sequence[Sequence[int]]] | None = None,
    length: int = 64,
    max_sequences: int = 100,
    epsilon: float = 0.3,
    bos: bool | None = None,
    seed: int = 0,
    limit: int | None = None,
    attention: AttentionPath = "auto",
    causal_sequences: int = 16,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> SinkFinding:
    """Measure attention sinks, value drains, residual peaks and gates.

    The quantities and their sources are in `docs/quantities.md`.

    Args:
        checkpoint: from `mechguard.load`.
        data: text files (each a domain), documents, or documents by domain, in the forms of
            `analyses.shared.data`; None takes an organism's own.
        token_ids: instead of `data`, rows of token ids by domain (for a model without tokenizer).
        length: T, tokens in a sequence, BOS included when on.
        max_sequences: of each domain.
        epsilon: threshold of the sink rate.
        bos: put BOS in front; None does what the tokenizer does.
        seed: random seed of the bootstrap and of the noise in the causal panel.
        limit: documents of each domain to look at, at most.
        attention: `auto`, or `eager` for families that bypass the attention interface.
        causal_sequences: sequences of each domain in the causal panel; 0 skips it.
        batch_tokens: most tokens in a forward pass.
        workdir: folder in which a stopped run leaves what it had, and goes on from when it is
            called again with the same model, rows and settings; emptied when a run is done.
        command: kept in the provenance, to reproduce the run.
        progress: called with (stage, done, total).

    Raises:
        InputError: unusable texts or settings.
        NumericalError: NaN or infinity where a number is reported.
        UnsupportedModelError: attention cannot be measured.
    """
    _require_usable(checkpoint, attention, epsilon, max_sequences, causal_sequences, seed, limit)
    watch = Stopwatch()
    if data is not None and token_ids is not None:
        raise InputError("give data or token_ids, not both.")
    domains = domains_of(data, checkpoint.name) if token_ids is None else []
    rows = _rows(checkpoint, domains, token_ids, length, max_sequences, bos, limit)
    own = own_folder(
        workdir,
        "sinks",
        checkpoint,
        data=rows.sha256,
        options={
            "attention": attention,
            "batch_tokens": batch_tokens,
            "causal_sequences": causal_sequences,
            "seed": seed,
        },
    )
    # All ranks share the folder, and the first one keeps others out.
    with ranks.group() as group, exclusive(own if group.rank == 0 else None):
        shown = stage(progress, "rows")
        found = measure(
            checkpoint,
            rows,
            attention=attention,
            batch_tokens=batch_tokens,
            workdir=own,
            progress=shown,
        )
        effects = _effects(checkpoint, rows, causal_sequences, seed, batch_tokens, own, progress)
    checked = parity(checkpoint, rows.rows, attention)
    provenance = _provenance(checkpoint, rows, domains, attention, watch.facts(seed, command))
    return build(checkpoint, found, effects, checked, provenance, epsilon=epsilon, seed=seed)


def _require_usable(
    checkpoint: Checkpoint,
    attention: AttentionPath,
    epsilon: float,
    max_sequences: int,
    causal_sequences: int,
    seed: int,
    limit: int | None,
) -> None:
    """Refuse what could only fail later."""
    if attention == "auto":
        require_interface(checkpoint.anatomy)
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon is {epsilon}; attention shares lie between 0 and 1.")
    if max_sequences < 1 or (limit is not None and limit < 1):
        raise InputError("max_sequences and limit must be 1 or more, or no row would be left.")
    if causal_sequences < 0 or seed < 0:
        raise InputError("causal_sequences and seed must be 0 or more.")


def _rows(
    checkpoint: Checkpoint,
    domains: Sequence[Texts],
    token_ids: Mapping[str, Sequence[Sequence[int]]] | None,
    length: int,
    max_sequences: int,
    bos: bool | None,
    limit: int | None,
) -> Rows:
    if token_ids is not None:
        cut = {
            name: [list(ids)[:length] for ids in sequences][:max_sequences]
            for name, sequences in token_ids.items()
        }
        return id_rows(checkpoint, cut)
    if not any(one.documents for one in domains):
        raise InputError("no texts were given; name at least one file, or pass documents.")
    rows = text_rows(
        checkpoint, domains, length=length, max_sequences=max_sequences, bos=bos, limit=limit
    )
    for name, count in rows.skipped.items():
        if count:
            log.info("%s: %d documents shorter than %d tokens skipped", name, count, length)
    return rows


def _effects(
    checkpoint: Checkpoint,
    rows: Rows,
    count: int,
    seed: int,
    batch_tokens: int,
    workdir: Path | None,
    progress: Progress | None,
) -> CausalEffects | None:
    """The causal panel on the first rows of each domain."""
    if count == 0:
        return None
    chosen: list[Row] = []
    for name in rows.domains:
        chosen += [row for row in rows.rows if row.domain == name][:count]
    shown = stage(progress, "heads")
    return causal_effects(
        checkpoint,
        chosen,
        seed=seed,
        batch_tokens=batch_tokens,
        workdir=workdir,
        progress=shown,
    )


def _provenance(
    checkpoint: Checkpoint,
    rows: Rows,
    domains: Sequence[Texts],
    attention: AttentionPath,
    run: RunFacts,
) -> SinkProvenance:
    hashes = {texts.name: texts.sha256 for texts in domains}
    counts = {name: sum(row.domain == name for row in rows.rows) for name in rows.domains}
    return SinkProvenance(
        **model_facts(checkpoint),
        **run,
        attention=attention,
        bos=rows.bos,
        data=[
            DomainEntry(
                name=name,
                sha256=hashes.get(name, rows.sha256),
                sequences=counts.get(name, 0),
                skipped=rows.skipped.get(name, 0),
            )
            for name in dict.fromkeys([*hashes, *counts])
        ],
    )
