"""How strongly each policy acts in each row, as a user gives it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.checks import named
from interp.errors import InputError
from interp.interventions.hooks import finite
from steering.runtime.plan import Plan

Strength = float | Sequence[float] | Sequence[Sequence[float]] | Tensor


def strengths(given: Strength, policies: Plan) -> Tensor:
    """As [policies, rows or 1], in float32.

    Args:
        given: one number, one for each row, or [policies, rows].
        policies: that it multiplies.

    Raises:
        InputError: it is no number, not finite, or does not fit the composition.
    """
    count = len(policies.policies)
    try:
        strength = finite(torch.as_tensor(given, dtype=torch.float32), "strength")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"strength is {named(given)}; give one number, one for each row, or [{count} "
            "policies, rows]."
        ) from error
    if strength.ndim > 2 or (strength.ndim == 2 and len(strength) != count):
        raise InputError(
            f"strength has shape {list(strength.shape)}; give one number, one for each row, or "
            f"[{count} policies, rows]."
        )
    strength = strength.reshape(1, -1) if strength.ndim < 2 else strength
    strength = strength.expand(count, -1)
    if policies.rows is None:
        return strength
    if strength.shape[1] not in (1, policies.rows.shape[1]):
        raise InputError(
            f"strength is given for {strength.shape[1]} rows, and policies for "
            f"{policies.rows.shape[1]}; give one of each for every row."
        )
    return strength * policies.rows
