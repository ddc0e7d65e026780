"""Whether a trigger sits on an attention sink: the attention it gets and how long its values are.

After "Forgetting to Forget" (arXiv 2510.17021): backdoored unlearning works best with triggers in
the first positions, where attention sinks. Attention to a string and its value norms are compared
with those of inert strings at the same positions. The score is ours: the mean of two distances from
the median inert string, in standard deviations of the inert strings. More attention counts, less
does not; values count either way, for those of a token on a sink are short, and those of one that
is read are long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from interp.attention.kernels import Demand
from interp.capture.recorder import LayerBatch, Needs, RowRecorder
from interp.capture.run import capture
from interp.data.rows import Row
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from probes.backdoors.search.requests import Requests
from probes.backdoors.search.subject import Subject
from probes.statistics.nulls import quantile_in

_LEAST_STRINGS = 3


@dataclass(frozen=True)
class SinkCheck:
    """Attention to a string in front of requests, and its values, beside inert strings.

    Attributes:
        heads: a row for each layer and head: `trigger`, `distractor_median` and `distractor_max`
            of the attention per token of the string over its even share, from later queries;
            `sink`: attention on the first token; `value_trigger`, `value_distractor`: norm of the
            string's values over that of the other tokens.
        score: mean of `attention_excess` and the size of `value_excess`, in standard deviations.
        attention_excess: of the string's attention, mean over layers and heads, over the median
            inert string, in standard deviations of the inert ones.
        value_excess: the same of its value norms, mean over layers.
        distractor_score: median score of the inert strings, each held against the others.
        quantile: place of `score` among theirs.
        strings: inert ones.
    """

    heads: pd.DataFrame
    score: float
    attention_excess: float
    value_excess: float
    distractor_score: float
    quantile: float
    strings: int


def sink_check(
    subject: Subject,
    requests: Requests,
    trigger: Sequence[int],
    distractors: Sequence[Sequence[int]],
) -> SinkCheck:
    """Measure a string in front of requests and inert strings of its length there.

    Args:
        subject: the checkpoint.
        requests: plain prompts.
        trigger: tokens of the suspected string.
        distractors: at least three inert strings of as many tokens.

    Raises:
        InputError: fewer inert strings, which have no spread.
        Exhausted: the budget does not allow it.
        UnsupportedModelError: attention is not routed through the interface.
    """
    if len(distractors) < _LEAST_STRINGS:
        raise InputError(
            f"{len(distractors)} inert strings have no spread to hold a string against; give "
            f"{_LEAST_STRINGS} or more."
        )
    begin = requests.rows[0].segments["instruction"][0]
    keys = tuple(range(begin, begin + len(trigger)))
    found = [_measured(subject, requests, ids, keys) for ids in (trigger, *distractors)]
    mass, sink, value = (np.stack([one[i] for one in found]) for i in range(3))
    layers = subject.checkpoint.anatomy.softmax_layers
    rows = [
        {
            "layer": layer,
            "head": head,
            "trigger": float(mass[0, place, head]),
            "distractor_median": float(np.median(mass[1:, place, head])),
            "distractor_max": float(mass[1:, place, head].max()),
            "sink": float(sink[0, place, head]),
            "value_trigger": float(value[0, place]),
            "value_distractor": float(np.median(value[1:, place])),
        }
        for place, layer in enumerate(layers)
        for head in range(mass.shape[2])
    ]
    attention, values = _excesses(mass.mean((1, 2))), _excesses(value.mean(1))
    scores = (attention + np.abs(values)) / 2
    return SinkCheck(
        pd.DataFrame(rows),
        float(scores[0]),
        float(attention[0]),
        float(values[0]),
        float(np.median(scores[1:])),
        quantile_in(float(scores[0]), scores[1:]),
        len(distractors),
    )


def _excesses(measured: Float[np.ndarray, " strings"]) -> Float[np.ndarray, " strings"]:
    """How far each string lies above the median of the inert ones other than itself.

    In their standard deviations; the first string is the suspected one.
    """
    found = []
    for place in range(len(measured)):
        others = np.delete(measured, [0, place] if place else [0])
        found.append((measured[place] - np.median(others)) / max(float(others.std()), 1e-9))
    return np.array(found)


def _measured(
    subject: Subject, requests: Requests, ids: Sequence[int], keys: tuple[int, ...]
) -> tuple[
    Float[np.ndarray, "layers heads"],
    Float[np.ndarray, "layers heads"],
    Float[np.ndarray, " layers"],
]:
    rows = requests.with_ids(ids, "front")
    subject.budget.take(len(rows))
    numbered = [Row(place, row.ids, row.domain) for place, row in enumerate(rows)]
    recorder = _OnString(keys)
    capture(subject.checkpoint, numbered, [recorder], batch_tokens=subject.batch_tokens)
    result = recorder.result()
    return tuple(result.stack(name).mean(0) for name in ("mass", "sink", "value"))


class _OnString(RowRecorder):
    """Attention from later queries on a string's tokens, and the norms of its values."""

    def __init__(self, keys: tuple[int, ...]) -> None:
        super().__init__()
        self.keys = keys

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """Mass on the string and the first token, and values."""
        layers = checkpoint.anatomy.softmax_layers
        return Needs(
            frozenset(Site("v", layer) for layer in layers),
            demands={layer: Demand(chosen=True) for layer in layers},
            keys=tuple(dict.fromkeys((0, *self.keys))),
        )

    def update(self, batch: LayerBatch) -> None:
        """Mass per token over the even share of a query at i, 1/(i + 1)."""
        after = self.keys[-1] + 1
        total = torch.stack([batch.mass_on(key) for key in self.keys]).sum(0)
        even = torch.arange(1, total.shape[-1] + 1, device=total.device)
        self.keep(batch, "mass", batch.mean(total * even / len(self.keys), after))
        self.keep(batch, "sink", batch.mean(batch.mass_on(0), after))
        norms = batch.site("v").norm(dim=-1).mean(-1)
        inside = torch.zeros_like(batch.real)
        inside[:, list(self.keys)] = True
        others = batch.real & ~inside
        others[:, 0] = False  # the first token's values may be drained
        means = [(norms * m).sum(1) / m.sum(1).clamp_min(1) for m in (inside, others)]
        self.keep(batch, "value", means[0] / means[1].clamp_min(1e-9))
