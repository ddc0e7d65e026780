"""Several policies at once: in a stated order, or a policy of its own for every row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.checks import require_type
from interp.errors import InputError
from steering.policy.gates import depth
from steering.policy.policy import Policy

_HOW = "read one with steering.Policy.load(path, checkpoint)"


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


def compose(*policies: Policy) -> Composition:
    """Let policies act one after the other: at a site that they share, the first one first.

    A gate reads the stream as earlier sites left it, edits of the other policies included.

    Raises:
        InputError: no policy, one twice, or something that is none.
    """
    for policy in policies:
        require_type(policy, Policy, "a policy", _HOW)
    if not policies or len(set(policies)) < len(policies):
        raise InputError("compose one policy or more, each once.")
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


def composed(policy: Policy | Sequence[Policy] | Composition) -> Composition:
    """What was given, as a composition; a bare sequence may not share a site.

    Raises:
        InputError: two policies of a sequence edit the same tensor, or something is no policy.
    """
    if isinstance(policy, Composition):
        return policy
    if isinstance(policy, Policy):
        return Composition((policy,))
    if isinstance(policy, (str, Path)) or not isinstance(policy, Iterable):
        require_type(policy, (Policy, Composition), "policy", _HOW)
    taken: dict[int, Policy] = {}
    for each in policy:
        require_type(each, Policy, "a policy", _HOW)
        for index in each.edits:
            site = each.sites[index]
            # The output of a block is the input of the next one.
            place = (depth(site) + 1) // 2
            other = taken.setdefault(place, each)
            if other is not each:
                raise InputError(
                    f"policies {other.name} and {each.name} both edit {site.hook_name}; say in "
                    "which order they act with steering.compose(first, second)."
                )
    return compose(*policy)
