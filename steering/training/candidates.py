"""Settings that a method has tried through the model, and grids of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steering.policy.policy import Policy
from steering.runtime.span import Span
from steering.training.examples import Captured

Candidate = tuple[dict[str, Any], Policy]
"""A setting, with its `strength` at least, and the policy that it makes."""

BUDGET = 48
"""Settings of each method that are tried through the model."""

SPANS: Mapping[str, Span] = {"prompt": Span.last(), "onward": Span.onward()}
"""Spans that are tried: the prompt's last token alone, or from it on."""

_ADDED = (0.25, 8.0)  # weakest and strongest, times a mean difference


@dataclass(frozen=True)
class Fitted:
    """What a method was fitted to, before one of its settings is chosen.

    Attributes:
        candidates: the settings to be tried, as many as `BUDGET`.
        record: JSON-ready, of how it was fitted; it goes into the policy's metadata.
    """

    candidates: Sequence[Candidate]
    record: Mapping[str, Any] = field(default_factory=dict)


def layers_tried(layers: Sequence[int]) -> list[int]:
    """At most four layers, spread from a quarter of the depth to 85 % of it."""
    last = len(layers) - 1
    places = np.unique(np.linspace(0.25 * last, 0.85 * last, 4).round().astype(int))
    return [layers[place] for place in places]


def grid(
    read: Captured, made: Callable[[int, float], Policy], ends: tuple[float, float] = _ADDED
) -> list[Candidate]:
    """One layer at a time, at strengths in equal ratios, in the prompt alone and onward.

    Args:
        read: whose layers.
        made: from a layer and a strength to the policy that edits onward.
        ends: weakest and strongest; by default times a mean difference.
    """
    layers = layers_tried(read.layers)
    strengths = np.geomspace(*ends, BUDGET // len(layers) // len(SPANS)).tolist()
    found: list[Candidate] = []
    for layer in layers:
        for alpha in strengths:
            onward = made(layer, alpha)
            prompt = replace(onward, span=Span(onward.span.start, 0))
            found += [
                ({"layer": layer, "span": name, "strength": alpha}, policy)
                for name, policy in (("prompt", prompt), ("onward", onward))
            ]
    return found
