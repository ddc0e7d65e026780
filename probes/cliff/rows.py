"""What the measurements of a refusal cliff return: one dataclass a kind of row, and no torch.

`None` stands where a number does not exist, such as a rate over no request.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RefusalShare:
    """Answers that refuse, as a share.

    Attributes:
        rate: None where n is 0.
        n: answers.
        interval: Wilson's at 95 %; None where n is 0.
    """

    rate: float | None
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ForcedStop:
    """Refusals when the thought is cut after so many tokens; otherwise as `RefusalShare`."""

    tokens: int
    rate: float | None
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class NaturalStop:
    """Refusals behind thoughts that the model closed itself; otherwise as `RefusalShare`.

    Attributes:
        unclosed: thoughts that never ended; not in the rate.
        without_thought: answers without one; not in the rate.
    """

    rate: float | None
    n: int
    interval: tuple[float, float] | None
    unclosed: int = 0
    without_thought: int = 0


@dataclass(frozen=True)
class TrajectoryPoint:
    """Mean probabilities of refusal at one position, with 95 % bootstrap bands over prompts.

    Attributes:
        position: in the prompt −1 to 0, in the thought 0 to 1, in the closing marker up to 1.1.
        difference: harmful − harmless.
        interval: of the difference.
    """

    position: float
    harmful: float
    harmful_low: float
    harmful_high: float
    harmless: float
    harmless_low: float
    harmless_high: float
    difference: float
    difference_low: float
    difference_high: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class HeadEffect:
    """One head: what it writes into the probe, and refusal when it is silenced.

    Attributes:
        contribution: to the probe's logit; negative suppresses refusal.
        rank: from 1, the strongest suppression first.
        ablated_refusal: of harmful requests; None where the head was not silenced by itself.
        interval: of that, Wilson's at 95 %.
        null_high: largest upper end of the intervals of other heads of its layer; None where there
            is no such head, or the head was not silenced.
        null_heads: how many those are.
        suppresses: whether the interval lies above `null_high`.
    """

    layer: int
    head: int
    contribution: float
    rank: int
    ablated_refusal: float | None
    interval: tuple[float, float] | None
    null_high: float | None
    null_heads: int
    suppresses: bool


@dataclass(frozen=True)
class AblationCondition:
    """Several heads silenced at once.

    Attributes:
        condition: its name.
        heads: `LAYER.HEAD`, with spaces between them.
        norm_restored: whether the layer's other heads were scaled up.
        refusal: share of harmful requests, with its Wilson interval and n.
        over_refusal: the same of harmless requests; None where they were not asked.
        kl: KL(as it was ‖ silenced) of the first answer token on harmless requests, in nats.
        compliant: share of harmless answers that comply to the letter; None where that is not
            known, too.
    """

    condition: str
    heads: str
    norm_restored: bool
    refusal: float | None
    refusal_low: float | None
    refusal_high: float | None
    refusal_n: int
    over_refusal: float | None = None
    over_refusal_low: float | None = None
    over_refusal_high: float | None = None
    over_refusal_n: int | None = None
    kl: float | None = None
    compliant: float | None = None


@dataclass(frozen=True)
class PairInteraction:
    """Two heads silenced alone and together: changes of the probe's logit, means over requests.

    Attributes:
        a: `LAYER.HEAD`.
        b: the other.
        interaction: what both do beyond the sum, with its 95 % bootstrap interval.
    """

    a: str
    b: str
    effect_a: float
    effect_b: float
    effect_both: float
    interaction: float
    interaction_low: float
    interaction_high: float
