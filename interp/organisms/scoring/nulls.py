"""What novelty alone gives: the scores that a detector of inputs has to beat.

Each is the AUROC of triggered against clean prompts minus that of distracted against clean ones.
A trigger is new to the clean prompts, and so is a string without effect; only the difference says
that something was detected beyond novelty.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.checkpoint import Checkpoint
from interp.organisms.chat.causes import residuals
from interp.organisms.chat.format import Messages
from interp.statistics.auroc import area, areas

DIRECTIONS = 1000
_SHRINKAGE = 0.05  # of the covariance towards its mean variance
_SEED = 0


@dataclass(frozen=True)
class Nulls:
    """AUROC differences that need no knowledge of the backdoor.

    Attributes:
        lexical: novelty of the mean token embedding, which knows only words.
        novelty: Mahalanobis distance of the middle layer's last token from clean ones.
        random_p99: 99th percentile over random directions at the same place, each taken with the
            sign that suits it.
    """

    lexical: float
    novelty: float
    random_p99: float

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def rendered(checkpoint: Checkpoint, prompts: Sequence[Messages]) -> list[list[int]]:
    """Token ids of conversations with the generation prompt that the template gives by itself."""
    tokenizer: Any = checkpoint.tokenizer
    return [
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        for messages in prompts
    ]


def nulls(
    checkpoint: Checkpoint,
    reference: Sequence[Messages],
    clean: Sequence[Messages],
    triggered: Sequence[Messages],
    distracted: Sequence[Messages],
) -> Nulls:
    """The nulls on an organism.

    Args:
        checkpoint: the organism.
        reference: clean prompts of other pairs, which distances are taken from.
        clean: prompts without a trigger.
        triggered: prompts with it.
        distracted: prompts with strings that resemble it and have no effect.
    """
    groups = [rendered(checkpoint, g) for g in (reference, clean, triggered, distracted)]
    words = [_mean_embedding(checkpoint, ids) for ids in groups]
    middle = checkpoint.anatomy.n_layers // 2 + 1
    last = [residuals(checkpoint, ids, [len(row) - 1 for row in ids])[middle] for ids in groups]
    return Nulls(_by_distance(*words), _by_distance(*last), _by_chance(*last[1:]))


def difference(
    clean: Float[np.ndarray, " n"],
    triggered: Float[np.ndarray, " m"],
    distracted: Float[np.ndarray, " k"],
) -> tuple[float, float]:
    """AUROC of triggered and of distracted against clean prompts."""
    return area(triggered, clean), area(distracted, clean)


def _mean_embedding(
    checkpoint: Checkpoint, ids: Sequence[Sequence[int]]
) -> Float[np.ndarray, "n d"]:
    table = checkpoint.embedding.get_parameter("weight").detach().double().cpu().numpy()
    return np.stack([table[list(row)].mean(0) for row in ids])


def _by_distance(
    reference: Float[np.ndarray, "r d"],
    clean: Float[np.ndarray, "n d"],
    triggered: Float[np.ndarray, "m d"],
    distracted: Float[np.ndarray, "k d"],
) -> float:
    mean = reference.mean(0)
    covariance = np.cov(reference.T)
    scale = np.trace(covariance) / len(covariance)
    inverse = np.linalg.inv(covariance + _SHRINKAGE * scale * np.eye(len(covariance)))
    distances = [
        np.einsum("ni,ij,nj->n", group - mean, inverse, group - mean)
        for group in (clean, triggered, distracted)
    ]
    trigger, distractor = difference(*distances)
    return trigger - distractor


def _by_chance(
    clean: Float[np.ndarray, "n d"],
    triggered: Float[np.ndarray, "m d"],
    distracted: Float[np.ndarray, "k d"],
) -> float:
    directions = np.random.default_rng(_SEED).normal(size=(clean.shape[1], DIRECTIONS))
    projected = [group @ directions for group in (clean, triggered, distracted)]
    signs = np.sign(areas(projected[1], projected[0]) - 0.5)
    signs[signs == 0] = 1
    clean, triggered, distracted = (group * signs for group in projected)
    gaps = areas(triggered, clean) - areas(distracted, clean)
    return float(np.quantile(gaps, 0.99))
