"""A linear probe for refusal on the final norm's output, freed from harmfulness.

The cells harmful or harmless × refused or accepted count alike, so that a probe of refusal is not
one of harm (the cells of Zhao et al., arXiv 2507.11878; Yin et al., arXiv 2510.06036, train on
refused harmful requests against ordinary chat, where the two are one). A probe is read only where
the like of it was trained on: the last token before an answer, or, for trajectories, tokens inside
thoughts too, labelled by what the model does when it is stopped there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit

from interp.capture.recorder import FINAL, LayerBatch, Needs, RowRecorder
from interp.capture.run import capture
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Edit
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from probes.estimators.linear import Logistic

CELLS = ("refused_harmful", "refused_harmless", "accepted_harmful", "accepted_harmless")
_PENALTY = 1.0  # C of the logistic regression on standardised features
_ROWS = 64  # in a batch of `logits_under`


@dataclass(frozen=True)
class Example:
    """One token with what follows from it.

    Attributes:
        row: ends with the token at which the probe is read.
        harmful: whether the request is.
        refused: whether the model refuses from there.
    """

    row: Row
    harmful: bool
    refused: bool

    @property
    def cell(self) -> str:
        """One of `CELLS`."""
        outcome = "refused" if self.refused else "accepted"
        return f"{outcome}_{'harmful' if self.harmful else 'harmless'}"


@dataclass(frozen=True)
class RefusalProbe:
    """A logistic regression in raw coordinates of the final norm's output.

    Attributes:
        coef: of the logit.
        intercept: of the logit.
        counts: examples of each cell before they were made to count alike.
    """

    coef: Float[np.ndarray, " width"]
    intercept: float
    counts: dict[str, int]

    @property
    def missing(self) -> tuple[str, ...]:
        """Cells without an example; the probe then reads harmfulness too."""
        return tuple(cell for cell in CELLS if not self.counts[cell])


def fit_refusal_probe(
    checkpoint: Checkpoint, examples: Sequence[Example], **settings: Any
) -> RefusalProbe:
    """Fit the probe on the last token of every example.

    Args:
        checkpoint: whose states are read.
        examples: of as many cells as there are; each cell is repeated until all count alike.
        **settings: of the capture: `batch_tokens`, `workdir`, `progress`.

    Raises:
        InputError: no example was refused, or none accepted.
    """
    counts = {cell: sum(one.cell == cell for one in examples) for cell in CELLS}
    refused = sum(one.refused for one in examples)
    if not 0 < refused < len(examples):
        which = "refused" if refused == 0 else "accepted"
        raise InputError(
            f"none of {len(examples)} requests was {which}, so there is nothing to tell a refusal "
            "from; give requests of both kinds, or another scorer of refusals."
        )
    rows = [Row(i, one.row.ids, one.row.domain) for i, one in enumerate(examples)]
    reader = _LastState()
    capture(checkpoint, rows, [reader], **settings)
    states = reader.result().at("state", FINAL)
    cells = np.array([one.cell for one in examples])
    most = max(counts.values())
    # Repeating is weighting: the fit is deterministic and the loss a mean.
    chosen = np.concatenate(
        [np.resize(np.flatnonzero(cells == cell), most) for cell in CELLS if counts[cell]]
    )
    labels = np.array([examples[i].refused for i in chosen])
    fitted = Logistic(C=_PENALTY).fit(states[chosen], labels)
    return RefusalProbe(fitted.coef_, fitted.intercept_, counts)


def probe_examples(
    checkpoint: Checkpoint, probe: RefusalProbe, examples: Sequence[Example], **settings: Any
) -> Float[np.ndarray, " n"]:
    """Logits at the last token of every example."""
    rows = [Row(i, one.row.ids, one.row.domain) for i, one in enumerate(examples)]
    return np.array([logits[-1] for logits in token_logits(checkpoint, rows, probe, **settings)])


def token_logits(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    probe: RefusalProbe,
    *,
    batch_tokens: int = 8192,
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Float[np.ndarray, " tokens"]]:
    """The probe's logit at every token of every row."""
    reader = _Logits(tuple(probe.coef.tolist()), probe.intercept)
    capture(
        checkpoint, rows, [reader], batch_tokens=batch_tokens, workdir=workdir, progress=progress
    )
    found = reader.result()
    place = {index: number for number, index in enumerate(found.rows.tolist())}
    values = found.at("logit", FINAL)
    return [values[place[row.index], : len(row)].astype(np.float64) for row in rows]


def token_probabilities(
    checkpoint: Checkpoint, rows: Sequence[Row], probe: RefusalProbe, **settings: Any
) -> list[Float[np.ndarray, " tokens"]]:
    """The probe's probability of refusal, 0 to 1, at every token of every row."""
    return [expit(logits) for logits in token_logits(checkpoint, rows, probe, **settings)]


@torch.no_grad()
def logits_under(
    checkpoint: Checkpoint, rows: Sequence[Row], probe: RefusalProbe, edit: Edit | None = None
) -> Float[np.ndarray, " rows"]:
    """The probe's logit at the last token of every row, with an edit in force."""
    found: list[np.ndarray] = []
    for first in range(0, len(rows), _ROWS):
        batch = rows[first : first + _ROWS]
        inputs = padded(batch, checkpoint, "left")
        decoder: Any = checkpoint.decoder
        if edit is None:
            out = decoder(**inputs, use_cache=False)
        else:
            with edit(batch):
                out = decoder(**inputs, use_cache=False)
        # Left-padded, so every row's last token is the last; behind the final norm.
        found.append(out.last_hidden_state[:, -1].double().cpu().numpy() @ probe.coef)
    return np.concatenate(found) + probe.intercept


@torch.no_grad()
def causality_leak(checkpoint: Checkpoint, row: Row) -> float:
    """How far earlier states move when the last token of a row is replaced; 0 in a causal model.

    The largest difference behind the final norm, relative to the largest entry there. Patched
    attention code can leak (methods of Yin et al., in one family), and a trajectory read off such
    a model shows each token what comes after it.
    """
    ids = torch.tensor([row.ids, row.ids], device=checkpoint.device)
    ids[1, -1] = row.ids[0] if row.ids[-1] != row.ids[0] else row.ids[-1] ^ 1
    decoder: Any = checkpoint.decoder
    states = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].double()
    return float((states[0] - states[1]).abs().max() / states[0].abs().max())


class _LastState(RowRecorder):
    def needs(self, checkpoint: LoadedModel) -> Needs:
        return Needs(frozenset({Site("final_norm")}))

    def update(self, batch: LayerBatch) -> None:
        values = batch.site("final_norm")
        rows = torch.arange(len(values), device=values.device)
        self.keep(batch, "state", values[rows, (batch.lengths - 1).to(values.device)])


class _Logits(RowRecorder):
    def __init__(self, coef: tuple[float, ...], intercept: float) -> None:
        super().__init__()
        self.coef, self.intercept = coef, intercept

    def needs(self, checkpoint: LoadedModel) -> Needs:
        return Needs(frozenset({Site("final_norm")}))

    def update(self, batch: LayerBatch) -> None:
        values = batch.site("final_norm").double()
        weight = torch.tensor(self.coef, dtype=torch.float64, device=values.device)
        self.keep(batch, "logit", values @ weight + self.intercept, ~batch.real)
