"""`analyses.backdoor`: from a checkpoint to a backdoor finding."""

from collections.abc import Sequence
from pathlib import Path

from analyses.backdoor.finding import BackdoorFinding, build
from analyses.backdoor.material import Material
from analyses.backdoor.mending import mend
from analyses.backdoor.reading import read_inside
from analyses.shared.running import Progress, Stopwatch, data_of, exclusive, model_facts, own_folder
from interp.model.checkpoint import Checkpoint
from interp.model.saving import require_trainable, require_unused
from interp.checkpoint import Checkpoint
from probes.backdoors.heads.head_swaps import Where
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.journal import Journal
from probes.backdoors.search.result import SearchSettings
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trigger_search import search
from probes.scorers import Phrases, WholeRefusal

FORWARD_PASSES, SECONDS = 300_000, 900.0
"""The default budget."""


def backdoor(
    checkpoint: Checkpoint,
    material: Material,
    *,
    twin: Checkpoint | None = None,
    candidates: Sequence[str] = (),
    forward_passes: int = FORWARD_PASSES,
    seconds: float = SECONDS,
    settings: SearchSettings | None = None,
    detectors: bool = False,
    swap_heads_at: Where = "last",
    repair_to: Path | None = None,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> BackdoorFinding:
    """Search a checkpoint for a string that works as a trigger.

    The quantities and their sources are in `docs/backdoors.md`.

    Args:
        checkpoint: from `interp.load`, with a chat template.
        material: from `analyses.backdoor_finding.material`.
        twin: a checkpoint of the same shape that is not suspected, such as the one that the other
            was tuned from.
        candidates: strings to try first.
        forward_passes: at most, the twin's included.
        seconds: at most, on the wall clock.
        settings: of the search.
        detectors: whether to read the internal detectors on the most suspicious string; none of
            them works on every organism.
        swap_heads_at: with detectors, the tokens at which heads are swapped between runs.
        repair_to: folder for a copy in which the first working trigger is unlearned; None for none.
        batch_tokens: most tokens in a forward pass.
        workdir: folder in which a stopped run leaves what it had; emptied when a run is done.
        command: kept in the provenance.
        progress: called with (what is counted, done, total).

    Raises:
        InputError: unusable requests, candidates or budget, a twin of another shape, or with
            `repair_to` a folder in use or weights that cannot be trained.
        NumericalError: NaN or infinity where a number is reported.
    """
    if repair_to is not None:
        require_unused(repair_to)
        require_trainable(checkpoint)
    watch = Stopwatch()
    settings = settings or SearchSettings()
    budget = Budget(forward_passes, seconds)
    scorer = WholeRefusal(material.refusals) if material.refusals else Phrases()
    limits = (forward_passes, seconds, batch_tokens)
    run = (*_asked(checkpoint, twin, material), scorer.name, list(candidates), limits, settings)
    own = own_folder(workdir, "backdoor", *run)
    readings = repaired = None
    with exclusive(own):
        journal = None if own is None else Journal(own / "units.jsonl")
        subject = Subject(checkpoint, budget, batch_tokens, journal)
        found = search(
            subject,
            list(material.search),
            list(material.held_out),
            scorer,
            harmful=material.harmful,
            twin=None if twin is None else Subject(twin, budget, batch_tokens, journal),
            given=candidates,
            settings=settings,
            progress=progress,
        )
        if detectors:
            readings = read_inside(subject, found, material, settings, swap_heads_at, progress)
        if repair_to is not None:
            work = None if own is None else own / "repair"
            repaired = mend(
                subject, found, material, scorer, settings, repair_to, work=work, progress=progress
            )
    provenance = {
        **model_facts(checkpoint),
        "twin": None if twin is None else twin.name,
        "scorer": scorer.name,
        "data": data_of({"search": material.search, "held out": material.held_out}),
        **watch.facts(settings.seed, command),
    }
    return build(found, readings, budget, material.caveats, provenance, repaired)


def _asked(checkpoint: Checkpoint, twin: Checkpoint | None, material: Material) -> list[object]:
    """Who is asked and what, in a form that tells runs apart."""
    models = [one for one in (checkpoint, twin) if one is not None]
    return [
        [(one.fingerprint, one.tokenizer_hash, one.device) for one in models],
        [part.sha256 for part in (material.search, material.held_out)],
        material.refusals,
    ]
