"""What policies decided for each row."""

from collections.abc import Sequence
from dataclasses import dataclass

from steering.runtime.applied_policy import AppliedPolicy


@dataclass(frozen=True)
class Decision:
    """What a policy does with a prompt.

    Attributes:
        row: of the batch, before beams or samples are drawn.
        policy: its name.
        score: the gate's read-out; None without a gate.
        gate: the gate's strength, 0 when closed.
        scale: α · strength of the row · gate, which multiplies the directions.
        open: whether the row is steered.
    """

    row: int
    policy: str
    score: float | None
    gate: float
    scale: float
    open: bool


def decided(policies: Sequence[AppliedPolicy]) -> list[Decision]:
    """Row by row and policy by policy, of policies that have decided.

    Raises:
        NumericalError: a read-out is NaN or infinite.
    """
    columns = []
    for steered in policies:
        steered.require_numbers()
        assert steered.score is not None and steered.gate is not None  # it has decided
        assert steered.scale is not None
        gated = bool(steered.policy.gate.reads)
        each = zip(
            steered.score.detach().tolist(),
            steered.gate.detach().tolist(),
            steered.scale.detach().tolist(),
            strict=True,
        )
        columns.append(
            [
                Decision(
                    row, steered.policy.name, score if gated else None, gate, scale, scale != 0
                )
                for row, (score, gate, scale) in enumerate(each)
            ]
        )
    return [decision for row in zip(*columns, strict=True) for decision in row]
