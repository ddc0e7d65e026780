"""States of rows at their last token, at all layers."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.capture.recorder import LayerBatch, Needs, RowRecorder
from interp.capture.run import capture
from interp.data.rows import Row
from interp.model.loaded import LoadedModel
from interp.model.sites import Site
from probes.backdoors.search.subject import Subject

SITE = "resid_post"


def last_states(subject: Subject, rows: Sequence[Row]) -> Float[np.ndarray, "rows layers width"]:
    """The output of every block at the last token of each row, float32; a pass a row.

    Raises:
        Exhausted: the budget does not allow it.
        NumericalError: a state is NaN or infinite.
    """
    subject.budget.take(len(rows))
    numbered = [Row(place, row.ids, row.domain) for place, row in enumerate(rows)]
    recorder = _Last()
    capture(subject.checkpoint, numbered, [recorder], batch_tokens=subject.batch_tokens)
    return np.asarray(recorder.result().stack("state"))


class _Last(RowRecorder):
    """The state of the last token."""

    def needs(self, checkpoint: LoadedModel) -> Needs:
        """The output of every block."""
        return Needs(frozenset(Site(SITE, i) for i in range(checkpoint.anatomy.n_layers)))

    def update(self, batch: LayerBatch) -> None:
        """Pick the last token of each row."""
        values = batch.site(SITE)
        last = torch.tensor([len(row) - 1 for row in batch.source], device=values.device)
        self.keep(batch, "state", values[torch.arange(len(last), device=values.device), last])
