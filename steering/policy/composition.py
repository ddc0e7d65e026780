"""Several policies at once: in a stated order, or a policy of its own for every row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.errors import InputError
from interp.generation import Edit
from steering.policy.policy import Policy
from steering.runtime.plan import HOW, require_distinct
from steering.runtime.runtime import as_edit


@dataclass(frozen=True, eq=False)
class Composition:
    """Policies that act together.

    Attributes:
        policies: in the order in which they act at a site that they share.
        rows: which policy steers which row; None lets every policy see every row.
    """

    policies: tuple[Policy, ...]
    rows: Bool[Tensor, "policies rows"] | None = None

    def __repr__(self) -> str:
        names = [policy.name for policy in self.policies]
        if self.rows is None:
            return f"Composition({', then '.join(names)})"
        return f"Composition({', '.join(names)}, by row, {self.rows.shape[1]} rows)"

    def as_edit(self, checkpoint: Checkpoint) -> Edit:
        """The policies as what `interp.generation` opens around each batch.

        Raises:
            InputError: once it is opened, as for `steering.attach`.
        """
        return as_edit(checkpoint, self)


def compose(*policies: Policy) -> Composition:
    """Let policies act one after the other: at a site that they share, the first one first.

    A gate reads the stream as earlier sites left it, edits of the other policies included.

    Raises:
        InputError: no policy, one twice, or something that is none.
    """
    for policy in policies:
        require_type(policy, Policy, "a policy", HOW)
    require_distinct(policies)
    return Composition(tuple(policies))


def per_row(policies: Sequence[Policy | None]) -> Composition:
    """Give every row of a batch a policy of its own, or none.

    Raises:
        InputError: no row has one.
    """
    distinct = tuple(dict.fromkeys(policy for policy in policies if policy is not None))
    if not distinct:
        raise InputError("no row has a policy; run the model without steering.")
    rows = torch.tensor([[mine is policy for mine in policies] for policy in distinct])
    return Composition(distinct, rows)
