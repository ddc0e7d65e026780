"""`analyses.cliff`: from a checkpoint and requests to a cliff finding."""

from pathlib import Path
from typing import Any

from analyses.cliff.finding import CliffFinding, build
from analyses.cliff.material import (
    WITH_THOUGHTS,
    CliffRequests,
    cell_rows,
    markers_of,
    requests_of,
)
from analyses.cliff.measure import CliffSettings, Measured, Study
from analyses.cliff.report import CliffProvenance
from analyses.cliff.training import Training, train_copy
from analyses.shared.data import PromptData
from analyses.shared.prompts import rows_of
from analyses.shared.running import Progress, Stopwatch, data_of, model_facts, own_folder
from interp.checkpoint import Checkpoint
from interp.errors import InputError
from interp.model.saving import require_trainable, require_unused
from interp.resume.run_folder import exclusive
from probes.cliff.example_selection import REFUSAL, SELECTORS, export_selected, select
from probes.cliff.rollouts import encoded
from probes.heads.head_ablation import all_heads
from probes.scorers import Phrases, WholeRefusal

BUDGET = 1024  # tokens of a thought, where the context allows
EXHAUSTIVE_UP_TO = 64  # heads, each of which is silenced by itself unless asked otherwise


def cliff(
    checkpoint: Checkpoint,
    data: CliffRequests | PromptData = None,
    *,
    scorer: Any = None,
    stop_text: str | None = None,
    thinking_budget: int | None = None,
    max_new_tokens: int = 64,
    share_of_heads: float = 0.03,
    exhaustive: bool | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    select_to: Path | None = None,
    refusal: str = REFUSAL,
    train: Training | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> CliffFinding:
    """Look for a refusal cliff: does a model that means to refuse still do so once it has thought?

    Args:
        checkpoint: a chat model that thinks before it answers.
        data: harmful and harmless requests: prompts with these labels, files of such, or a
            mapping of label to prompts or files; without any, an organism's own or the built-in
            ones. Also the requests of `analyses.cliff.material`.
        scorer: a `probes.scorers.Scorer`; whole refusals of an organism, else phrases, if None.
        stop_text: cuts a thought; an organism's own, or the marker that closes a thought, if None.
        thinking_budget: tokens of a thought; as the context allows, 1024 at most, if None.
        max_new_tokens: of an answer.
        share_of_heads: silenced together, by their direct contribution; at least one head.
        exhaustive: silence every head by itself; up to 64 heads if None.
        limit: requests of each class in a part, at most.
        seed: of splits, draws and the bootstrap.
        batch_tokens: most tokens in a batch.
        workdir: folder in which a stopped run leaves what it had; emptied when a run is done.
        select_to: folder for the examples that each selector chooses, as JSONL; None for none.
        refusal: what the chosen examples are to be answered with; an organism has its own.
        train: fine-tunes a copy on chosen examples and writes it; None for none. What it did is
            `trained` of the finding.
        command: kept in the provenance.
        progress: called with (stage, done, total).

    Raises:
        InputError: unusable requests or settings, no closed thought, only one kind of answer, or
            with `train` a folder in use or weights that cannot be trained.
        CheckError: the model is not causal.
        NumericalError: a state is NaN or infinite.
    """
    _require_usable(max_new_tokens, share_of_heads, limit, seed, thinking_budget)
    if train is not None:
        require_unused(train.folder)
        require_trainable(checkpoint)
    watch = Stopwatch()
    if isinstance(data, CliffRequests):
        requests = data
    else:
        requests = requests_of(checkpoint.name, data, limit=limit, seed=seed)
    markers = markers_of(checkpoint, stop_text)
    stop = stop_text or requests.stop or markers.closing
    answer = max_new_tokens + len(encoded(checkpoint, stop))
    settings = CliffSettings(
        markers=markers,
        stop_text=stop,
        thinking_budget=_budget(checkpoint, requests, answer, thinking_budget),
        max_new_tokens=max_new_tokens,
        share_of_heads=share_of_heads,
        exhaustive=_few_heads(checkpoint) if exhaustive is None else exhaustive,
        batch_tokens=batch_tokens,
        seed=seed,
    )
    if scorer is None:
        scorer = WholeRefusal(requests.refusals) if requests.refusals else Phrases()
    own = own_folder(
        workdir, "cliff", checkpoint, data=requests, scorer=scorer, options={"settings": settings}
    )
    study = Study(checkpoint, requests, settings, scorer, own, progress)
    trained = None
    with exclusive(own):
        found = study.run()
        if select_to is not None:
            _export(found, select_to, seed, refusal)
        if train is not None:
            trained = train_copy(study, found, train, refusal)
    provenance = CliffProvenance(
        **model_facts(checkpoint),
        scorer=scorer.name,
        data=data_of({"training requests": requests.train, "test": requests.test}),
        **watch.facts(seed, command),
    )
    return build(found, settings, provenance, requests.caveats, trained)


def _require_usable(
    max_new_tokens: int, share: float, limit: int | None, seed: int, budget: int | None
) -> None:
    if max_new_tokens < 1 or (budget is not None and budget < 1):
        raise InputError("thinking_budget and max_new_tokens must be 1 or more.")
    if not 0 < share <= 1:
        raise InputError(f"a share of {share} of the heads is not above 0 and at most 1.")
    if seed < 0 or (limit is not None and limit < 4):
        raise InputError("seed must be 0 or more, and limit 4 or more, or nothing can be fitted.")


def _budget(
    checkpoint: Checkpoint, requests: CliffRequests, answer: int, wanted: int | None
) -> int:
    """The tokens of a thought that were asked for, or that every request leaves room for."""
    context = checkpoint.anatomy.context
    if context is None:
        return wanted or BUDGET
    asked = [*requests.train, *requests.test]
    longest = max(map(len, rows_of(checkpoint, asked, WITH_THOUGHTS)))
    longest = max([longest, *map(len, cell_rows(checkpoint, requests.cells))])
    room = context - longest - answer
    if room < 1:
        raise InputError(
            f"the longest request has {longest} tokens, and {checkpoint.name} was built for "
            f"{context}, so no thought fits beside an answer of {answer}; leave long "
            "requests out, or lower --max-new-tokens."
        )
    if wanted is not None and wanted > room:
        raise InputError(
            f"a thought of {wanted} tokens does not fit {checkpoint.name}, whose context of "
            f"{context} leaves {room} beside the longest request and the answer; lower "
            "--thinking-budget, or leave it out."
        )
    return wanted or min(BUDGET, room)


def _few_heads(checkpoint: Checkpoint) -> bool:
    return len(all_heads(checkpoint)) <= EXHAUSTIVE_UP_TO


def _export(found: Measured, folder: Path, seed: int, refusal: str) -> None:
    """All examples of each selector in its order; the first so many of them are its choice."""
    for selector in SELECTORS:
        rows = select(found.judged, selector, 1.0, seed)
        export_selected(folder / f"{selector}.jsonl", found.judged_thoughts, rows, refusal)
