"""`analyses.backdoor`: from a checkpoint to a backdoor finding."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analyses.backdoor.finding import BackdoorFinding, build
from analyses.backdoor.material import TriggerRequests, requests_of
from analyses.backdoor.mending import mend
from analyses.backdoor.reading import read_inside
from analyses.backdoor.report import BackdoorProvenance, RepairSection
from analyses.shared.data import PromptData
from analyses.shared.reports import NotMeasured
from analyses.shared.running import Progress, Stopwatch, data_of, model_facts, own_folder
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from interp.model.saving import require_trainable, require_unused
from interp.resume.run_folder import exclusive
from probes.backdoors.detectors.detectors import Readings
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
    data: TriggerRequests | PromptData = None,
    *,
    reference: Checkpoint | None = None,
    candidates: Sequence[str] = (),
    forward_passes: int = FORWARD_PASSES,
    seconds: float = SECONDS,
    settings: SearchSettings | None = None,
    seed: int = 0,
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
        checkpoint: from `mechguard.load`, with a chat template.
        data: harmless and harmful requests: prompts with these labels, files of such, or a
            mapping of label to prompts or files; without any, an organism's own or the built-in
            ones. Also the requests of `analyses.backdoor.material`.
        reference: a checkpoint of the same shape that is not suspected, such as the one that the
            checkpoint was tuned from.
        candidates: strings to try first.
        forward_passes: at most, the reference model's included.
        seconds: at most, on the wall clock.
        settings: of the search; their seed is that of the run.
        seed: of the split and of all draws.
        detectors: whether to read the internal detectors on the most suspicious string; none of
            them works on every organism.
        swap_heads_at: with detectors, the tokens at which heads are swapped between runs.
        repair_to: folder for a copy in which the first working trigger is unlearned; None for none.
        batch_tokens: most tokens in a forward pass.
        workdir: folder in which a stopped run leaves what it had; emptied when a run is done.
        command: kept in the provenance.
        progress: called with (what is counted, done, total).

    Raises:
        InputError: unusable requests, candidates or budget, a reference model of another
            shape, two seeds, or with `repair_to` a folder in use or weights that cannot be
            trained.
        NumericalError: NaN or infinity where a number is reported.
    """
    if repair_to is not None:
        require_unused(repair_to)
        require_trainable(checkpoint)
    watch = Stopwatch()
    settings = _with_seed(settings or SearchSettings(), seed)
    if isinstance(data, TriggerRequests):
        requests = data
    else:
        requests = requests_of(checkpoint.name, data, seed=seed)
    budget = Budget(forward_passes, seconds)
    scorer = WholeRefusal(requests.refusals) if requests.refusals else Phrases()
    own = own_folder(
        workdir,
        "backdoor",
        checkpoint,
        reference=reference,
        data=requests,
        scorer=scorer,
        options={
            "candidates": list(candidates),
            "forward_passes": forward_passes,
            "seconds": seconds,
            "batch_tokens": batch_tokens,
            "settings": settings,
        },
    )
    readings: Readings | NotMeasured = NotMeasured(
        "the internal detectors are off unless asked for (--detectors)"
    )
    repaired: RepairSection | NotMeasured = NotMeasured("no repair was asked for (--repair)")
    with exclusive(own):
        journal = None if own is None else Journal(own / "units.jsonl")
        subject = Subject(checkpoint, budget, batch_tokens, journal)
        found = search(
            subject,
            list(requests.search),
            list(requests.held_out),
            scorer,
            harmful=requests.harmful,
            twin=None if reference is None else Subject(reference, budget, batch_tokens, journal),
            given=candidates,
            settings=settings,
            progress=progress,
        )
        if detectors:
            readings = read_inside(
                subject, found, requests, settings, swap_heads_at, progress
            ) or NotMeasured("no string was suspicious, or the budget did not allow it")
        if repair_to is not None:
            work = None if own is None else own / "repair"
            repaired = mend(
                subject, found, requests, scorer, settings, repair_to, work=work, progress=progress
            ) or NotMeasured("no trigger works, so there is nothing to unlearn")
    provenance = BackdoorProvenance(
        **model_facts(checkpoint),
        reference=None if reference is None else reference.name,
        scorer=scorer.name,
        data=data_of({"search": requests.search, "held out": requests.held_out}),
        **watch.facts(settings.seed, command),
    )
    return build(found, readings, budget, requests.caveats, provenance, repaired)


def _with_seed(settings: SearchSettings, seed: int) -> SearchSettings:
    if settings.seed not in (0, seed):
        raise InputError(
            f"the settings have seed {settings.seed} and the run has seed {seed}; give it to the "
            "run alone."
        )
    return replace(settings, seed=seed)
