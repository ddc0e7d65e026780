"""Which heads and MLPs write the refusal direction, at the token it was read at."""

import numpy as np

from analyses.refusal.measuring.speak import Responder, Responses
from analyses.refusal.report_effects import AttributionRow
from interp.statistics.intervals import difference_interval
from probes.directions.directions import Direction
from probes.heads.head_attribution import direct_parts


def attribution(
    responder: Responder, direction: Direction, harmful: Responses, harmless: Responses, seed: int
) -> tuple[AttributionRow, ...]:
    """What each part writes along the direction on harmful prompts, less that on harmless ones.

    Means over unedited prompts, in units of the residual. The parts of all layers before the
    direction's add up to the difference of the projections at its place, so nothing is left out.
    """
    found = [
        direct_parts(
            responder.checkpoint,
            responses.rows,
            direction.unit.double().numpy(),
            position=direction.position,
            batch_tokens=responder.batch_tokens,
        )
        for responses in (harmful, harmless)
    ]
    parts: list[tuple[str, np.ndarray, np.ndarray]] = [
        ("embedding", found[0].embedding, found[1].embedding)
    ]
    for layer in range(direction.layer):
        for head in range(found[0].heads.shape[2]):
            one, other = (side.heads[:, layer, head] for side in found)
            if not np.isnan(one).any():
                parts.append((f"L{layer} head {head}", one, other))
        parts.append((f"L{layer} MLP", found[0].mlp[:, layer], found[1].mlp[:, layer]))
        rest = found[0].other[:, layer], found[1].other[:, layer]
        if np.abs(np.concatenate(rest)).max() > 1e-4 * max(direction.residual_norm, 1e-30):
            parts.append((f"L{layer} other", *rest))
    return tuple(_compared(name, one, other, seed) for name, one, other in parts)


def _compared(name: str, one: np.ndarray, other: np.ndarray, seed: int) -> AttributionRow:
    """The difference of the means with its interval, by bootstrap of both sides."""
    interval = difference_interval(one, other, seed, over="prompts")
    return AttributionRow(name, float(one.mean() - other.mean()), interval)
