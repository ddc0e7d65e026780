"""Harmfulness apart from refusal: two directions from four cells, beliefs and Latent Guard.

After Zhao et al. (arXiv 2507.11878). A prompt's cell is what it asks for, harmful or not, by what
the checkpoint does with it under greedy decoding, refusal or not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from analyses.refusal.material import clusters_of
from analyses.refusal.measuring.separation import within_strata, within_strata_null
from analyses.refusal.measuring.speak import Responses
from analyses.refusal.report import (
    BeliefPoint,
    Beliefs,
    CellSizes,
    CellSizesByPart,
    ClassSizes,
    Harmfulness,
    LabelSizes,
    LatentGuardScores,
    MeanBelief,
    RefusalSeparationRow,
    TprAtFpr,
)
from analyses.shared.prompts import is_harmful
from analyses.shared.reports import NotMeasured
from interp.capture.prompt_states import PromptStates
from interp.errors import InputError
from probes.directions.directions import (
    Cells,
    Directions,
    cosine,
    harmfulness_directions,
    refusal_directions,
)
from probes.guards.latent_guard import LatentGuard
from probes.statistics.metrics import auroc, tpr_at_fpr

_FPRS = (0.01, 0.001)
_PLANE_MOST = 400  # points of the plane that the report keeps


@dataclass(frozen=True)
class Asked:
    """Prompts with their cells and states.

    Attributes:
        responses: the prompts with their answers.
        states: at `resid_pre`, all layers.
        outputs: at `resid_post`, all layers, for the scores of the paper.
    """

    responses: Responses
    states: PromptStates
    outputs: PromptStates

    @property
    def cells(self) -> Cells:
        """What each prompt asks for, and whether it is refused."""
        harmful = np.array([is_harmful(prompt) for prompt in self.responses.prompts], bool)
        return Cells(harmful, self.responses.refused)

    @property
    def clusters(self) -> Shaped[np.ndarray, " n"] | None:
        """What prompts share that are not independent, or None."""
        return clusters_of(self.responses.prompts, self.cells.harmful)

    @property
    def labels(self) -> np.ndarray:
        """Of the prompts."""
        return np.array([prompt.label for prompt in self.responses.prompts])


def concept_directions(train: Asked, **meta: Any) -> tuple[Directions, Directions]:
    """Harmfulness from refused harmful and accepted harmless prompts, and refusal from all cells.

    Raises:
        InputError: a cell that is needed is empty.
    """
    cells = train.cells
    for cell, words in (((True, True), "harmful prompt that it refuses"),
                        ((False, False), "harmless prompt that it accepts")):  # fmt: skip
        if not cells[cell].any():
            raise InputError(
                f"the checkpoint has no {words}, so harmfulness and refusal cannot be told apart; "
                "give other prompts, or a tuned checkpoint."
            )
    harm = harmfulness_directions(train.states, cells[True, True], cells[False, False], **meta)
    return harm, refusal_directions(train.states, cells, **meta)


def harmfulness(train: Asked, test: Asked, harm: Directions, refuse: Directions) -> Harmfulness:
    """The block `harmfulness` of the report.

    AUROCs are over all test prompts, whatever the checkpoint does with them, so that a direction
    that only knows refusal does not pass for one that knows harmfulness.
    """
    harmful, clusters = test.cells.harmful, test.clusters
    t_inst, t_post_inst = (
        [
            auroc(
                test.states.values[:, i, j].astype(float) @ harm.vectors[i, j],
                harmful,
                clusters=clusters,
            )
            for i in range(len(harm.layers))
        ]
        for j in (0, len(harm.positions) - 1)
    )
    return Harmfulness(
        auroc_t_inst_by_layer=tuple(one.value for one in t_inst),
        auroc_t_inst_interval_by_layer=tuple(one.interval for one in t_inst),
        auroc_t_post_inst_by_layer=tuple(one.value for one in t_post_inst),
        auroc_t_post_inst_interval_by_layer=tuple(one.interval for one in t_post_inst),
        cosine_with_refusal_by_layer=tuple(
            cosine(harm.vectors[i, 0], refuse.vectors[i, -1]) for i in range(len(harm.layers))
        ),
        interval_method=t_inst[0].method,
        latent_guard=latent_guard(train, test),
        n=LabelSizes(harmful=int(harmful.sum()), harmless=int((~harmful).sum())),
        cells=CellSizesByPart(train=_sizes(train.cells), test=_sizes(test.cells)),
    )


def _sizes(cells: Cells) -> CellSizes:
    return CellSizes(
        refused_harmful=int(cells[True, True].sum()),
        refused_harmless=int(cells[False, True].sum()),
        accepted_harmful=int(cells[True, False].sum()),
        accepted_harmless=int(cells[False, False].sum()),
    )


def latent_guard(train: Asked, test: Asked) -> LatentGuardScores:
    """Latent Guard on the prompts that deceive the checkpoint: harmful ones that it accepts.

    Of these the jailbroken ones alone, where prompts have that label. They stand against the
    harmless ones that it accepts. Where it accepts none, all harmful prompts stand against all
    harmless ones, and `on` says so. `paper_auroc` is of the paper's own score, `by_label` of every
    harmful label against the harmless prompts of the headline.
    """
    cells = train.cells
    chosen = cells[True, True] | cells[False, False]
    fitted = {
        name: LatentGuard(paper_exact=exact).fit(
            train.outputs[chosen].t_inst, cells.harmful[chosen]
        )
        for name, exact in (("ours", False), ("paper", True))
    }
    scores = {name: g.decision_function(test.outputs.t_inst) for name, g in fitted.items()}
    positive, negative, on = _deceiving(test)
    kept = positive | negative
    clusters = test.clusters
    found = auroc(
        scores["ours"][kept],
        positive[kept],
        clusters=None if clusters is None else clusters[kept],
    )
    labels = {
        str(label): auroc(scores["ours"][mask | negative], mask[mask | negative]).value
        for label in dict.fromkeys(test.labels)
        if (mask := (test.labels == label) & test.cells.harmful).any()
    }
    return LatentGuardScores(
        auroc=found.value,
        interval=found.interval,
        interval_method=found.method,
        on=on,
        n=ClassSizes(positives=found.positives, negatives=found.negatives),
        tpr_at_fpr=tuple(_at(scores["ours"][kept], positive[kept], fpr) for fpr in _FPRS),
        paper_auroc=auroc(scores["paper"][kept], positive[kept]).value,
        by_label=labels,
    )


def _deceiving(test: Asked) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], str]:
    """Positive and negative prompts of Latent Guard, and both in words."""
    cells = test.cells
    accepted = cells[True, False]
    if not accepted.any():
        words = "all harmful prompts against all harmless ones, because it accepts none"
        return cells.harmful, ~cells.harmful, words
    jailbroken = accepted & (test.labels == "jailbroken")
    if jailbroken.any():
        words = "jailbroken prompts, which the checkpoint accepts, against harmless ones it accepts"
        return jailbroken, cells[False, False], words
    words = "harmful prompts that the checkpoint accepts, against harmless ones that it accepts"
    return accepted, cells[False, False], words


def _at(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], fpr: float) -> TprAtFpr:
    """TPR at a false-positive rate, or why it is not stated."""
    try:
        point = tpr_at_fpr(scores, positive, fpr)
    except InputError as error:
        reason = NotMeasured(str(error).removesuffix("."))
        return TprAtFpr(fpr, reason, reason, reason, why_not=str(error))
    assert point.tpr is not None and point.tpr_interval is not None
    return TprAtFpr(fpr, point.tpr, point.tpr_interval, point.threshold, why_not=None)


def refusal_separation(
    train: Asked, test: Asked, refuse: Directions, seed: int
) -> tuple[RefusalSeparationRow, ...]:
    """How well refused and accepted prompts are distinguished at each layer and position.

    Within harmful and within harmless prompts, averaged, so that harmfulness does not count;
    `null_max` is the 95th percentile of the best cell with refusal shuffled within each of the two.
    An AUROC of None: no stratum of the test prompts holds both.
    """
    cells = test.cells
    null = within_strata_null(train.states.values, train.cells, test.states.values, cells, seed)
    return tuple(
        RefusalSeparationRow(
            layer=layer,
            segment_position=position,
            auroc=within_strata(
                test.states.values[:, i, j].astype(float) @ refuse.vectors[i, j],
                cells.refused,
                cells.harmful,
            ),
            null_max=null,
        )
        for i, layer in enumerate(test.states.layers)
        for j, position in enumerate(test.states.positions)
    )


def beliefs(train: Asked, test: Asked) -> Beliefs:
    """The plane: belief in harmfulness at t_inst by belief in refusal at t_post_inst (Eq. 3 and 4).

    Each is the mean over the outputs of all blocks of the cosine with one centroid less that with
    the other: refused harmful less accepted harmless prompts, and all refused less all accepted.
    """
    cells = train.cells
    chosen = cells[True, True] | cells[False, False]
    harm = LatentGuard(paper_exact=True).fit(train.outputs[chosen].t_inst, cells.harmful[chosen])
    refuse = LatentGuard(paper_exact=True).fit(train.outputs.t_post_inst, cells.refused)
    x = harm.decision_function(test.outputs.t_inst)
    y = refuse.decision_function(test.outputs.t_post_inst)
    here = test.cells
    means = {}
    for refused in (True, False):
        for harmful in (True, False):
            mask = here[harmful, refused]
            name = f"{'refused' if refused else 'accepted'}_{'harmful' if harmful else 'harmless'}"
            if mask.any():
                means[name] = MeanBelief(
                    harm=float(x[mask].mean()), refuse=float(y[mask].mean()), n=int(mask.sum())
                )
    step = max(1, -(-len(x) // _PLANE_MOST))
    points = tuple(
        BeliefPoint(
            harm=float(x[i]),
            refuse=float(y[i]),
            harmful=bool(here.harmful[i]),
            refused=bool(here.refused[i]),
            label=str(test.labels[i]),
        )
        for i in range(0, len(x), step)
    )
    return Beliefs(means=means, points=points, shown=len(points), n=len(x))
