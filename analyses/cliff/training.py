"""A copy fine-tuned on the examples that a selector chooses, and what became of its refusals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from analyses.cliff.measure import Measured, Study
from analyses.report.text import estimate, number
from analyses.shared.prompts import is_harmful
from analyses.shared.running import stage
from interp.errors import InputError
from interp.model.saving import save_checkpoint
from interp.statistics.intervals import Method, caption
from probes.cliff.example_selection import REFUSAL, SELECTORS, select
from probes.cliff.fine_tuning import FineTuningPlan, fine_tune, fine_tuning_cost
from probes.cliff.forced_stop import natural_stop
from probes.cliff.rollouts import Rollout
from probes.cliff.rows import NaturalStop

PERCENT = 1.7
"""Of the training data, from which Yin et al. (arXiv 2510.06036) report refusal to be restored."""


@dataclass(frozen=True)
class Training:
    """What to fine-tune a copy on, and where to write it.

    Attributes:
        folder: of the copy; to be made.
        percent: of the harmful training requests, above 0 and at most 100; at least one request.
        selector: one of `probes.cliff.example_selection.SELECTORS`.
        plan: of the training.
        announce: called with a sentence on the cost before the training starts.
    """

    folder: Path
    percent: float = PERCENT
    selector: str = "cliff"
    plan: FineTuningPlan = field(default_factory=FineTuningPlan)
    announce: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise InputError(
                f"{self.percent:g} % of the training requests cannot be chosen; give more than 0 "
                "and at most 100."
            )
        if self.selector not in SELECTORS:
            raise InputError(
                f"there is no selector {self.selector!r}; there are {', '.join(SELECTORS)}."
            )


@dataclass(frozen=True)
class TrainedCopy:
    """A fine-tuned copy beside the model, on requests that neither was trained on.

    Attributes:
        folder: of the copy.
        selector: that chose the examples.
        refused: harmful training requests that it was trained to refuse.
        out_of: harmful training requests to choose from.
        kept: harmless training requests that it was trained to answer as before.
        before: refusal of held-out requests by the model, by label.
        after: by the copy.
    """

    folder: Path
    selector: str
    refused: int
    out_of: int
    kept: int
    before: Mapping[str, NaturalStop]
    after: Mapping[str, NaturalStop]

    @property
    def restored(self) -> bool:
        """Whether more harmful requests are refused, intervals apart."""
        return _rises(self.before["harmful"], self.after["harmful"])

    @property
    def over_refused(self) -> tuple[str, ...]:
        """Labels of harmless requests of which more are refused, intervals apart."""
        return tuple(
            label
            for label, before in self.before.items()
            if label != "harmful" and _rises(before, self.after[label])
        )

    def sentences(self) -> list[str]:
        """What was done, then a line a label: refusal before and after."""
        share = number(100 * self.refused / self.out_of)
        head = (
            f"Refusal of held-out requests before and after fine-tuning on {self.refused} of "
            f"{self.out_of} harmful requests ({share} %, chosen by {self.selector}) and "
            f"{self.kept} harmless ones (shares with {caption(Method.WILSON, over='requests')}):"
        )
        return [
            head,
            *(
                f"  {label}: {_share(before)} before, {_share(self.after[label])} after"
                for label, before in self.before.items()
            ),
        ]


def train_copy(
    study: Study, found: Measured, training: Training, refusal: str = REFUSAL
) -> TrainedCopy:
    """Fine-tune a copy on chosen training requests, write it, and ask it the held-out ones.

    Args:
        study: that `found` was measured by.
        found: of the model.
        training: what to train on, and where to write.
        refusal: what the chosen requests are to be answered with; an organism has its own.

    Raises:
        InputError: no thought of a training request closed, or the folder cannot be written to.
        NumericalError: the loss is NaN or infinite.
    """
    refused, out_of = _chosen(found, training)
    kept = [one for one in found.thoughts.train if one.closed and not is_harmful(one.prompt)]
    plan = training.plan
    if training.announce is not None:
        cost = fine_tuning_cost(study.checkpoint, refused, kept, plan, refusal=refusal)
        training.announce(
            f"Fine-tuning a copy on {len(refused)} of {out_of} harmful requests, chosen by "
            f"{training.selector}, and {len(kept)} harmless ones: {cost.steps} steps, "
            f"{cost.tokens:,} tokens at most, {number(cost.bytes / 1e9)} GB of memory beside the "
            "model, activations not counted."
        )
    copy = fine_tune(
        study.checkpoint,
        refused,
        kept,
        plan,
        refusal=refusal,
        work=None if study.workdir is None else study.workdir / "training",
        progress=stage(study.progress, "training steps"),
    )
    # The state of a stopped run beside it is of the model, not of the copy.
    own = None if study.workdir is None else study.workdir / "trained"
    asked = replace(study, checkpoint=copy, workdir=own)
    after = {}
    for label in found.rates:
        prompts = list(study.requests.test.of(label))
        thoughts = asked.rollouts(label, prompts, f"{label} requests", 0, len(prompts))
        after[label] = natural_stop(asked.respondent(label), thoughts)
    # Last, for a folder in use is refused when a stopped run goes on.
    save_checkpoint(copy, training.folder)
    return TrainedCopy(
        training.folder,
        training.selector,
        len(refused),
        out_of,
        len(kept),
        found.rates,
        after,
    )


def _chosen(found: Measured, training: Training) -> tuple[list[Rollout], int]:
    """Closed thoughts of harmful training requests that the selector puts first, and of how many.

    Raises:
        InputError: there is none.
    """
    held_out = len(found.thoughts.test["harmful"])
    table = found.judged[found.judged["row"] >= held_out]
    if table.empty:
        raise InputError(
            "no thought of a harmful training request was closed, so there is nothing to train "
            "on; raise --thinking-budget."
        )
    rows = select(table, training.selector, training.percent / 100, training.plan.seed)
    return [found.judged_thoughts[row] for row in rows], len(table)


def _rises(before: NaturalStop, after: NaturalStop) -> bool:
    if before.interval is None or after.interval is None:
        return False
    return after.interval[0] > before.interval[1]


def _share(found: NaturalStop) -> str:
    counted = f"{estimate(found.rate, *(found.interval or (None, None)))} (n {found.n})"
    return f"{counted}, {found.unclosed} not closed" if found.unclosed else counted
