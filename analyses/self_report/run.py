"""`analyses.self_report`: from a checkpoint that can be asked to a self-report finding."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analyses.self_report.finding import SelfReportFinding, Spoken, build
from analyses.self_report.material import UNKNOWN, Questions, require_askable, suspects_of
from analyses.shared.running import Progress, Stopwatch, exclusive, model_facts, own_folder, stage
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from probes.backdoors.self_report.ask import Method
from probes.backdoors.self_report.awareness import awareness_at_k, chance
from probes.backdoors.self_report.compare import self_report as ask_about_itself
from probes.backdoors.self_report.free_form import FreeAnswer, articulation, free_answers
from probes.backdoors.self_report.questions import FreeQuestion, candidate_questions

_WORDS = re.compile(r"\w+|[^\w\s]+")


def self_report(
    checkpoint: Checkpoint,
    *,
    twin: Checkpoint | None = None,
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
    """Ask a checkpoint about itself, and its twin the same.

    The quantities and their sources are in `docs/self_report.md`.

    Args:
        checkpoint: from `interp.load`, with a chat template.
        twin: trained alike with the trigger as often and without its effect; else the base model.
        questions: of `questions_of`; ours if None.
        candidates: suspected triggers, each asked about by itself, among unknown strings.
        unknown: strings drawn at random for each length of a candidate, as their null.
        trigger: known or suspected, looked for in the answers to free questions.
        method: how options are told, as of `probes.backdoor.asking.ask`.
        max_new_tokens: of a free answer.
        show_answers: keep free answers in the report rather than their numbers of words.
        template: further arguments of the chat template.
        seed: of the bootstrap and of the unknown strings.
        batch_tokens: most tokens in a batch.
        workdir: folder in which a stopped run leaves its free answers; emptied when it is done.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: the checkpoint cannot be asked, a twin of another tokenizer, unusable
            candidates, or a trigger without free questions.
        NumericalError: the logits are NaN.
    """
    watch = Stopwatch()
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
            twin=twin,
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
    run = (_names(checkpoint, twin), asked.free, max_new_tokens, batch_tokens, more)
    own = own_folder(workdir, "self-report", *run)
    with exclusive(own):
        spoken = [
            _spoken(
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
            for name, model in {"checkpoint": checkpoint, "twin": twin}.items()
            if model is not None and asked.free
        ]
    provenance = {
        **model_facts(checkpoint),
        "twin": None if twin is None else twin.name,
        "method": method,
        "template": more,
        "max_new_tokens": max_new_tokens,
        "questions": len(asked.options),
        "free_questions": len(asked.free),
        **watch.facts(seed, command),
    }
    return build(report, ranked, suspects, spoken, trigger, show_answers, provenance)


def _names(checkpoint: Checkpoint, twin: Checkpoint | None) -> list[object]:
    """Who is asked, in a form that tells runs apart."""
    models = [one for one in (checkpoint, twin) if one is not None]
    return [(one.fingerprint, one.tokenizer_hash, one.device) for one in models]


def _spoken(
    name: str,
    checkpoint: Checkpoint,
    questions: Sequence[FreeQuestion],
    trigger: str | None,
    seed: int,
    **settings: Any,
) -> Spoken:
    """Free answers of one model, held against a trigger if there is one."""
    said = free_answers(checkpoint, questions, **settings)
    return Spoken(name, said, _articulated(said, trigger, seed))


def _articulated(
    said: Sequence[FreeAnswer], trigger: str | None, seed: int
) -> dict[str, Any] | None:
    """How often answers name a trigger, and how near the nearest comes to it; None without one."""
    if trigger is None:
        return None
    bad = [answer.text for answer in said if answer.question.topic == "bad"]
    words = list(dict.fromkeys(word for answer in said for word in _words(answer.text)))
    likeness = awareness_at_k(bad, trigger, len(bad), _words)
    null = chance(bad, trigger, words, tokens=_words, seed=seed) if words else None
    return {
        **asdict(articulation(said, trigger, seed)),
        "likeness": likeness.as_dict(),
        "chance": None if null is None else null.as_dict(),
    }


def _words(text: str) -> list[str]:
    """Words and marks, whatever their case."""
    return _WORDS.findall(text.casefold())
