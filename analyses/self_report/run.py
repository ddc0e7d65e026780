"""`analyses.self_report`: from a checkpoint that can be asked to a self-report finding."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from analyses.self_report.finding import ModelAnswers, SelfReportFinding, build
from analyses.self_report.material import UNKNOWN, Questions, require_askable, suspects_of
from analyses.self_report.report import (
    ArticulationRow,
    Asked,
    Likeness,
    SelfReportProvenance,
)
from analyses.shared.reports import NotMeasured
from analyses.shared.running import Progress, Stopwatch, model_facts, own_folder, stage
from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.errors import InputError
from interp.resume.run_folder import exclusive
from probes.backdoors.self_report.ask import Method
from probes.backdoors.self_report.awareness import Awareness, awareness_at_k, chance
from probes.backdoors.self_report.compare import self_report as ask_about_itself
from probes.backdoors.self_report.free_form import FreeAnswer, articulation, free_answers
from probes.backdoors.self_report.questions import FreeQuestion, candidate_questions

_WORDS = re.compile(r"\w+|[^\w\s]+")


def self_report(
    checkpoint: Checkpoint,
    *,
    reference: Checkpoint | None = None,
    questions: Questions | None = None,
    candidates: Sequence[str] = (),
    unknown: int = UNKNOWN,
    trigger: str | None = None,
    method: Method = "labels",
    max_new_tokens: int = 64,
    show_answers: bool = False,
    template: dict[str, Any] | None = None,
    seed: int = 0,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> SelfReportFinding:
    """Ask a checkpoint about itself, and a reference model the same.

    The quantities and their sources are in `docs/self_report.md`.

    Args:
        checkpoint: from `mechguard.load`, with a chat template.
        reference: reference model, trained alike with the trigger as often and without its effect;
            else the base model. Without one nothing is claimed.
        questions: of `questions_of`; the built-in ones if None.
        candidates: suspected triggers, each asked about by itself, among unknown strings.
        unknown: strings drawn at random for each length of a candidate, as their null.
        trigger: known or suspected, looked for in the answers to free questions.
        method: how options are presented, as of `probes.backdoors.self_report.ask`.
        max_new_tokens: tokens of a free answer, at most.
        show_answers: keep free answers in the report rather than their numbers of words.
        template: further arguments of the chat template.
        seed: random seed of the bootstrap and of the unknown strings.
        batch_tokens: most tokens in a batch.
        workdir: folder in which a stopped run leaves its free answers; emptied when it is done.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: the checkpoint cannot be asked, a reference model of another tokenizer,
            unusable candidates, arguments of another type, or a trigger without free questions.
        NumericalError: the logits are NaN.
    """
    watch = Stopwatch()
    require_type(
        questions, (Questions, NoneType), "questions", "make them with questions_of(files)"
    )
    require_type(reference, (Checkpoint, NoneType), "reference", "load it with mechguard.load")
    asked, more = questions or Questions(), template or {}
    if trigger is not None and not asked.free:
        raise InputError("a trigger is looked for in free answers; ask free questions too.")
    if trigger is not None and not trigger.strip():
        raise InputError("the trigger is empty; give the string that answers are to name.")
    require_askable(checkpoint, asked)
    suspects = suspects_of(checkpoint, candidates, unknown, seed)

    def put(options: Sequence[Any], name: str) -> Any:
        return ask_about_itself(
            checkpoint,
            options,
            reference=reference,
            method=method,
            seed=seed,
            batch_tokens=batch_tokens,
            progress=stage(progress, name),
            **more,
        )

    report = put(asked.options, "questions")
    ranked = None
    if suspects is not None:
        ranked = put(candidate_questions(list(suspects.tokens)), "candidates")
    own = own_folder(
        workdir,
        "self-report",
        checkpoint,
        reference=reference,
        data=asked.free,
        template=more,
        options={"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens},
    )
    with exclusive(own):
        answered = [
            _answered(
                name,
                model,
                asked.free,
                trigger,
                seed,
                max_new_tokens=max_new_tokens,
                batch_tokens=batch_tokens,
                workdir=None if own is None else own / name,
                progress=stage(progress, f"answers, {name}"),
                **more,
            )
            for name, model in _models(checkpoint, reference)
            if asked.free
        ]
    provenance = SelfReportProvenance(
        **model_facts(checkpoint),
        **watch.facts(seed, command),
        reference=None if reference is None else reference.name,
        method=method,
        template=more,
        max_new_tokens=max_new_tokens,
        questions=len(asked.options),
        free_questions=len(asked.free),
    )
    return build(report, ranked, suspects, answered, trigger, show_answers, provenance)


def _models(checkpoint: Checkpoint, reference: Checkpoint | None) -> list[tuple[Asked, Checkpoint]]:
    found: list[tuple[Asked, Checkpoint]] = [("checkpoint", checkpoint)]
    return found if reference is None else [*found, ("reference", reference)]


def _answered(
    name: Asked,
    checkpoint: Checkpoint,
    questions: Sequence[FreeQuestion],
    trigger: str | None,
    seed: int,
    **settings: Any,
) -> ModelAnswers:
    """Free answers of one model, compared with a trigger if there is one."""
    said = free_answers(checkpoint, questions, **settings)
    found = None if trigger is None else _articulated(name, said, trigger, seed)
    return ModelAnswers(name, said, found)


def _articulated(
    name: Asked, said: Sequence[FreeAnswer], trigger: str, seed: int
) -> ArticulationRow:
    """How often answers name a trigger, and how near the nearest comes to it."""
    bad = [answer.text for answer in said if answer.question.topic == "bad"]
    words = list(dict.fromkeys(word for answer in said for word in _words(answer.text)))
    likeness = awareness_at_k(bad, trigger, len(bad), _words)
    null = chance(bad, trigger, words, tokens=_words, seed=seed) if words else None
    found = articulation(said, trigger, seed)
    return ArticulationRow(
        name,
        found.bad,
        found.good,
        found.n,
        found.bad_interval,
        found.good_interval,
        found.gap,
        found.gap_interval or NotMeasured("an interval needs two questions or more"),
        _likeness(likeness),
        NotMeasured("no answer holds a word") if null is None else _likeness(null),
    )


def _likeness(found: Awareness) -> Likeness:
    return Likeness(found.exact, found.token_jaccard, found.lcs, found.character_jaccard)


def _words(text: str) -> list[str]:
    """Words and marks, whatever their case."""
    return _WORDS.findall(text.casefold())
