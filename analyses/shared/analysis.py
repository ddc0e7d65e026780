"""What the registry says of an analysis. Nothing here imports torch, so help stays quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from analyses.report.panel import Drawing
    from analyses.shared.finding import Finding
    from analyses.shared.running import Progress
    from interp.checkpoint import Checkpoint
    from interp.data.prompt_sets import PromptSet
    from interp.data.rows import Texts
    from interp.model.anatomy import Anatomy
    from steering.policy.policy import Policy


@dataclass(frozen=True)
class Facts:
    """What decides whether an analysis applies; known without the weights.

    Attributes:
        anatomy: of the checkpoint.
        chat_template: of its tokenizer, as text; None without one.
        organism: its name, for one of ours.
        given: what the user brought, of `texts`, `reference`, `policies`, `switches`, `traces`.
    """

    anatomy: Anatomy
    chat_template: str | None
    organism: str | None = None
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ReportInputs:
    """What `mechguard report` hands to every analysis that it runs.

    Attributes:
        checkpoint: to be measured.
        texts: by domain; empty where there are none.
        prompts: by label (`harmful`, `harmless`, `alarming`, `jailbroken`); empty to take an
            organism's own or the built-in ones.
        reference: a reference model, or None.
        policies: to be measured.
        allow: what may differ from the checkpoint that a policy names as its origin.
        seed: random seed.
        limit: prompts of each label in each part, at most.
        max_new_tokens: tokens of an answer, at most.
        seconds: wall-clock seconds that are left for this analysis.
        settings: further arguments by kind of analysis.
        workdir: of unfinished runs.
        command: kept in the provenance.
        progress: called with (stage, done, total).
    """

    checkpoint: Checkpoint
    texts: Sequence[Texts] = ()
    prompts: Mapping[str, PromptSet] = field(default_factory=dict)
    reference: Checkpoint | None = None
    policies: Sequence[Policy] = ()
    allow: Sequence[str] = ()
    seed: int = 0
    limit: int | None = None
    max_new_tokens: int = 64
    seconds: float = 600.0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workdir: Path | None = None
    command: str | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Analysis:
    """One analysis: how it is called, what it needs, and how its finding is shown.

    Attributes:
        kind: of its finding, in `report.json`.
        summary: what it measures, in a phrase.
        place: on a page with several findings; the smallest comes first.
        missing: why it does not apply; None if it does.
        function: imports and hands out the function that runs it.
        drawing: imports and hands out how its findings are shown.
        report: imports and hands out the dataclass that `report.json` is written from.
        verb: on the command line; None without one.
        in_report: runs it as a part of `mechguard report`; None if that never does.
        distributed: whether the processes of `torchrun` share its work.
    """

    kind: str
    summary: str
    place: int
    missing: Callable[[Facts], str | None]
    function: Callable[[], Callable[..., Finding]]
    drawing: Callable[[], Drawing]
    report: Callable[[], type[Any]]
    verb: str | None = None
    in_report: Callable[[ReportInputs], Finding] | None = None
    distributed: bool = False


def no_chat_template(facts: Facts) -> str | None:
    """Why prompts cannot be put to a checkpoint; None if they can."""
    if facts.chat_template:
        return None
    return "no chat template; name one with --chat-template"
