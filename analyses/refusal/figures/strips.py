"""Where along a prompt and its answer a direction is present."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.refusal.measuring.speak import Responder, Responses
from analyses.refusal.report_effects import Strip
from analyses.shared.prompts import is_harmful
from interp.capture.recorder import LayerBatch, Needs, RowRecorder
from interp.capture.run import capture
from interp.data.rows import Row
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from probes.directions.directions import Direction

_EACH = 3  # of a kind
_LONGEST = 96  # tokens of a strip
_HIDDEN = "…"


class _Along(RowRecorder):
    """Projection of every token on a unit vector."""

    def __init__(self, site: Site, unit: Float[Tensor, " width"]) -> None:
        super().__init__()
        self._site, self._unit = site, unit

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """The site."""
        return Needs(frozenset({self._site}))

    def update(self, batch: LayerBatch) -> None:
        """Project."""
        values = batch.site(self._site.name)
        along = values @ self._unit.to(values.device)
        self.keep(batch, "along", along, missing=~batch.real.to(along.device))


def strips(
    responder: Responder, responses: Mapping[str, Responses], direction: Direction
) -> tuple[Strip, ...]:
    """Projections, token by token, for a few prompts of every set with their unedited answers.

    Args:
        responder: whose states they are.
        responses: unedited answers by set.
        direction: read at its own layer.
    """
    rows: list[Row] = []
    names: list[str] = []
    shown: list[list[str]] = []
    tokenizer: Any = responder.checkpoint.tokenizer
    for name, answered in responses.items():
        for i in range(min(_EACH, len(answered))):
            prompt, row, reply = answered.prompts[i], answered.rows[i], answered.replies[i]
            ids = (*row.ids, *reply.ids)[:_LONGEST]
            granted = is_harmful(prompt) and not answered.refused[i]
            tokens = [tokenizer.decode([token]) for token in ids]
            if granted:
                tokens[len(row) :] = [_HIDDEN] * (len(ids) - len(row))
            rows.append(Row(len(rows), ids, name, {}))
            names.append(f"{name.replace('_', ' ')} {i + 1}")
            shown.append(tokens)
    recorder = _Along(Site(direction.site, direction.layer), direction.unit)
    capture(responder.checkpoint, rows, [recorder], batch_tokens=responder.batch_tokens)
    values = recorder.result().at("along", direction.layer)
    return tuple(
        Strip(name, tuple(tokens), _rounded(one[: len(tokens)]))
        for name, tokens, one in zip(names, shown, values, strict=True)
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in torch.tensor(values))
