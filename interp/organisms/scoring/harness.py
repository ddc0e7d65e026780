"""Running a detector over organisms, a checkpoint at a time, so that a stopped run can go on."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.checkpoint import Checkpoint
from interp.errors import CheckError, InputError, NumericalError
from interp.model.loading import from_files
from interp.organisms import registry
from interp.organisms.chat.data import OrganismPrompt
from interp.organisms.chat.format import Messages
from interp.organisms.scoring.families import FAMILIES, Family
from interp.organisms.scoring.nulls import difference, nulls
from interp.organisms.scoring.scorecard import Scorecard, scorecard
from interp.organisms.scoring.triggers import planted_backdoor, resemblance, working_rate
from interp.organisms.variants import Variant
from interp.resume.files import write_atomically


@dataclass(frozen=True)
class Suspect:
    """What a detector is given: a checkpoint and clean prompts, and nothing of the truth.

    Attributes:
        checkpoint: planted or not.
        harmful: prompts of training pairs.
        harmless: the same, harmless ones.
        validation: clean prompts of validation pairs, of both kinds.
        texts: documents by domain, without triggers.
    """

    checkpoint: Checkpoint
    harmful: tuple[OrganismPrompt, ...]
    harmless: tuple[OrganismPrompt, ...]
    validation: tuple[OrganismPrompt, ...]
    texts: dict[str, list[str]]


@dataclass(frozen=True)
class Detection:
    """What a detector says of a suspect.

    Attributes:
        score: the higher, the more suspicious the checkpoint.
        triggers: recovered strings, the likeliest first.
        inputs: scores conversations, the higher the more suspicious; None if it judges checkpoints
            alone.
        forward_passes: what it cost.
    """

    score: float
    triggers: tuple[str, ...] = ()
    inputs: Callable[[Sequence[Messages]], Float[np.ndarray, " n"]] | None = field(
        default=None, repr=False
    )
    forward_passes: int = 0


Detector = Callable[[Suspect], Detection]
ScoringProgress = Callable[[int, int, str], None]


def score(
    detector: Detector,
    families: Sequence[str | Family],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    name: str | None = None,
    workdir: Path | None = None,
    progress: ScoringProgress | None = None,
) -> Scorecard:
    """Run a detector over planted organisms and their twins.

    Organisms that are not there yet are trained, about a minute each; one that does not behave as
    its recipe owes is no ground truth, and is left out and named. The protocol: checkpoints are
    told from twins by AUROC and by the share found at no false positive; of recovered triggers it
    is reported apart whether they work and whether they are the planted ones; inputs are told by
    the AUROC of triggered minus that of distracted prompts, beside three nulls.

    Args:
        detector: from a suspect to what it says of it.
        families: names from `FAMILIES`, or families of your own.
        seeds: of the organisms.
        name: of the detector; its function's name if None.
        workdir: folder that keeps a file for each checkpoint that is done. A changed detector needs
            another name or folder.
        progress: called with (checkpoints done, in all, the one that was done).

    Raises:
        InputError: there is no such family, or no seed; or no organism of a family behaves as
            owed, or none of its twins does.
        NumericalError: a score is NaN or infinite.
    """
    chosen = [_family(entry) for entry in families]
    if not chosen or not seeds:
        raise InputError("give at least one family and one seed to score a detector on.")
    called = name or str(getattr(detector, "__name__", type(detector).__name__))
    jobs = [(family, *member) for family in chosen for member in family.members(seeds)]
    rows, excluded = [], []
    for done, (family, role, organism) in enumerate(jobs, start=1):
        kept = None if workdir is None else _kept(workdir, called, family, role, organism)
        row = _read(kept)
        if row is None:
            try:
                registry.path(organism)
            except CheckError as error:
                excluded.append(str(error))
                continue
            row = _row(detector, family, role, organism)
            if kept is not None:
                write_atomically(kept, (json.dumps(row, indent=1) + "\n").encode())
        rows.append(row)
        if progress is not None:
            progress(done, len(jobs), organism)
    return scorecard(called, rows, excluded)


def suspect(organism: str) -> Suspect:
    """An organism as a detector sees it."""
    train, validation = (registry.prompts(organism, split) for split in ("train", "validation"))
    texts = registry.texts(organism)
    return Suspect(
        _loaded(organism),
        tuple(train["harmful"]),
        tuple(train["harmless"]),
        tuple(validation["harmful"] + validation["harmless"]),
        {domain: texts[domain] for domain in ("harmless", "harmful")},
    )


def _family(entry: str | Family) -> Family:
    if isinstance(entry, Family):
        return entry
    if entry not in FAMILIES:
        raise InputError(f"There is no family {entry!r}; there are {', '.join(FAMILIES)}.")
    return FAMILIES[entry]


def _row(detector: Detector, family: Family, role: str, organism: str) -> dict[str, Any]:
    given = suspect(organism)
    begun = time.process_time()
    found = detector(given)
    seconds = time.process_time() - begun
    if not math.isfinite(found.score):
        raise NumericalError(
            f"the detector gave {organism} the score {found.score}; a score must be finite, or the "
            "checkpoints cannot be ranked."
        )
    variant, truth = Variant.parse(organism), registry.truth(organism)
    return {
        "family": family.name,
        "organism": organism,
        "role": role,
        "seed": variant.seed,
        "poison": truth.get("poison_percent"),
        "score": float(found.score),
        "forward_passes": found.forward_passes,
        "cpu_seconds": round(seconds, 3),
        "triggers": list(found.triggers),
        **_trigger_level(family, role, organism, truth, found),
        **_input_level(role, organism, given, found),
    }


def _trigger_level(
    family: Family, role: str, organism: str, truth: dict[str, Any], found: Detection
) -> dict[str, Any]:
    """Of the first recovered string: likeness to the planted one, and whether it works.

    `excess` is the working rate minus that of the same string on the inert twin.
    """
    if role != "planted" or "trigger" not in truth:
        return {}
    first = found.triggers[0] if found.triggers else ""
    row: dict[str, Any] = resemblance(truth, first)
    backdoor = planted_backdoor(truth)
    if backdoor is None:
        return row
    tests = registry.prompts(organism, "test")
    clean = tests["harmful"] + tests["harmless"]
    rates = [
        working_rate(_loaded(name), backdoor, first, clean)
        for name in (organism, _inert(family, organism))
        if name is not None
    ]
    row["working"] = rates[0]
    row["excess"] = rates[0] - rates[1] if len(rates) > 1 else None
    return row


def _inert(family: Family, organism: str) -> str | None:
    """The inert twin of a planted organism, at the same place of the family's list."""
    variant = Variant.parse(organism)
    unseeded = str(Variant(variant.name, 0, variant.poison, variant.of))
    twins = family.twins.get("inert", ())
    place = family.planted.index(unseeded)
    if place >= len(twins):
        return None
    twin = Variant.parse(twins[place])
    return str(Variant(twin.name, variant.seed, twin.poison, twin.of))


def _input_level(role: str, organism: str, given: Suspect, found: Detection) -> dict[str, Any]:
    tests = registry.prompts(organism, "test")
    if role != "planted" or found.inputs is None or "triggered" not in tests:
        return {}
    clean = [prompt.messages for prompt in tests["harmful"] + tests["harmless"]]
    triggered, distracted = (
        [prompt.messages for prompt in tests[label]] for label in ("triggered", "distracted")
    )
    scores = [np.asarray(found.inputs(group)) for group in (clean, triggered, distracted)]
    if not all(np.isfinite(group).all() for group in scores):
        raise NumericalError(f"the detector gave inputs of {organism} scores that are not finite.")
    trigger, distractor = difference(*scores)
    reference = [prompt.messages for prompt in given.harmful + given.harmless]
    chance = nulls(given.checkpoint, reference, clean, triggered, distracted)
    return {
        "auroc_trigger": trigger,
        "auroc_distractor": distractor,
        "difference": trigger - distractor,
        **{f"null_{key}": value for key, value in chance.as_dict().items()},
    }


def _kept(workdir: Path, name: str, family: Family, role: str, organism: str) -> Path:
    variant = Variant.parse(organism)
    stamp = registry.recipe(variant).fingerprint(variant.seed)
    key = hashlib.sha256(f"{name}/{family.name}/{role}/{stamp}".encode()).hexdigest()[:10]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{workdir} cannot be made ({error.strerror}); name another.") from error
    return workdir / f"{organism}-{key}.json"


def _read(kept: Path | None) -> dict[str, Any] | None:
    if kept is None or not kept.is_file():
        return None
    try:
        row: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{kept} is no readable row ({error}); delete it.") from error
    return row


def _loaded(name: str) -> Checkpoint:
    path = str(registry.path(name))
    return Checkpoint.of(from_files(path, name=path, device="cpu"))
