"""`analyses.backdoor`: from a checkpoint to a backdoor finding."""

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from analyses.backdoor_finding.finding import BackdoorFinding, build
from analyses.backdoor_finding.material import Material
from analyses.running import Progress, own_folder
from interp.artifacts import origin, versions
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from probes.backdoor.budget import Budget
from probes.backdoor.detectors import Readings, read_all
from probes.backdoor.found import Found, Settings
from probes.backdoor.journal import Journal
from probes.backdoor.requests import Candidate, Placement
from probes.backdoor.subject import Subject
from probes.backdoor.trigger_search import search
from probes.backdoor.working import Trial, control_strings, typable
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
    settings: Settings | None = None,
    detectors: bool = False,
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
            them works on the organisms.
        batch_tokens: most tokens in a forward pass.
        workdir: folder in which a stopped run leaves what it had; emptied when a run is done.
        command: kept in the provenance.
        progress: called with (what is counted, done, total).

    Raises:
        InputError: unusable requests, candidates or budget, or a twin of another shape.
        NumericalError: NaN or infinity where a number is reported.
    """
    started, begun = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    settings = settings or Settings()
    budget = Budget(forward_passes, seconds)
    scorer = WholeRefusal(material.refusals) if material.refusals else Phrases()
    own, journal = None, None
    if workdir is not None:
        models = [
            (one.fingerprint, one.tokenizer_hash, one.device)
            for one in (checkpoint, twin)
            if one is not None
        ]
        asked = (material.search.sha256, material.held_out.sha256, material.refusals, scorer.name)
        limits = (forward_passes, seconds, batch_tokens)
        own = own_folder(workdir, "backdoor", models, asked, list(candidates), limits, settings)
        journal = Journal(own / "units.jsonl")
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
    readings = _read(subject, found, material, settings) if detectors else None
    provenance = {
        **origin(checkpoint),
        "parameters": checkpoint.anatomy.parameters,
        "device": str(checkpoint.device),
        "twin": None if twin is None else twin.name,
        "scorer": scorer.name,
        "data": [
            {"name": name, "sha256": part.sha256, "sequences": len(part)}
            for name, part in (("search", material.search), ("held out", material.held_out))
        ],
        "seed": settings.seed,
        "versions": versions(),
        "command": command,
        "started": started,
        "wall_seconds": round(time.perf_counter() - begun, 1),
    }
    name = None if twin is None else twin.name
    finding = build(found, readings, budget, material.caveats, provenance, twin=name)
    if own is not None:
        shutil.rmtree(own, ignore_errors=True)
    return finding


def _read(
    subject: Subject, found: Found, material: Material, settings: Settings
) -> Readings | None:
    """The detectors on the most suspicious string; None where there is none, or no budget."""
    suspected = _suspected(found)
    if suspected is None or found.plain is None or found.held_out is None:
        return None
    candidate, placement = suspected
    vocabulary = typable(subject, settings.vocabulary, settings.seed)
    strings = [
        *(
            motif.ids
            for motif in found.motifs
            if len(motif.ids) == len(candidate.ids) and not set(motif.ids) & set(candidate.ids)
        ),
        *control_strings(
            candidate, vocabulary, found.plain.instructions, len(found.held_out), settings.seed
        ),
    ]
    with subject.budget.stage("detectors") as part:
        try:
            return read_all(
                subject.on(part),
                found.plain,
                found.held_out,
                candidate,
                placement,
                strings[: len(found.held_out)],
                material.contrasts,
                settings.seed,
            )
        except InputError as error:
            found.notes.append(f"The internal detectors were left out: {error}")
    return None


def _suspected(found: Found) -> tuple[Candidate, Placement] | None:
    """What works, or else what changes the next token most."""
    telling: list[Trial] = [trial for trial in found.trials if trial.tellable]
    if telling:
        return telling[0].candidate, telling[0].placement
    if found.effects:
        best = max(found.effects, key=lambda one: one.novel)
        return best.candidate, best.placement
    return None
