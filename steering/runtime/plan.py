"""What the runtime applies: policies by what it reads of them, in the order in which they act.

`steering.policy` imports the runtime, so that a policy can steer by itself; therefore the runtime
knows policies and compositions by these protocols alone.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.checks import named
from interp.errors import InputError
from interp.model.sites import Site
from steering.runtime.gates import Gate, depth
from steering.runtime.operators import Operator
from steering.runtime.span import Span

HOW = "read one with mechguard.Policy.load(path, checkpoint)"


@runtime_checkable
class PolicyLike(Protocol):
    """A policy as the runtime sees it; `steering.Policy` says what each attribute means."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def method(self) -> str:
        """How it was made, for messages."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where it edits, in the order of the layers."""

    @property
    def directions(self) -> Tensor:
        """One for each site, [sites, width]."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the sites."""

    @property
    def gate(self) -> Gate:
        """Decides for every row."""

    @property
    def span(self) -> Span:
        """Which tokens."""

    @property
    def operator(self) -> Operator:
        """What is done to them."""

    @property
    def strength(self) -> float:
        """Multiplies all weights."""

    @property
    def readers(self) -> Tensor | None:
        """One for each site, [sites, width], for the operator `map`."""

    @property
    def keep_norm(self) -> bool:
        """Whether an edited state keeps the norm that it had."""

    @property
    def width(self) -> int:
        """Of the residual stream."""

    @property
    def edits(self) -> tuple[int, ...]:
        """Indices of the sites whose weight is not 0."""

    @property
    def late(self) -> bool:
        """Whether it edits a site that a pass reaches before the gate has read its last one."""

    def require(self, checkpoint: Checkpoint, *, allow: Collection[str] = ()) -> None:
        """Raise an InputError unless the policy suits the checkpoint."""


@runtime_checkable
class Plan(Protocol):
    """Policies that act together, such as a `steering.Composition`."""

    @property
    def policies(self) -> tuple[PolicyLike, ...]:
        """In the order in which they act at a site that they share."""

    @property
    def rows(self) -> Tensor | None:
        """Which policy steers which row, boolean [policies, rows]; None for every row."""


Policies = PolicyLike | Sequence[PolicyLike] | Plan


@dataclass(frozen=True, eq=False)
class _Together:
    """Policies that share no site, for every row."""

    policies: tuple[PolicyLike, ...]
    rows: Tensor | None = None


def planned(policy: Policies) -> Plan:
    """What was given, as a plan; policies of a bare sequence may not share a site.

    Raises:
        InputError: two policies of a sequence edit the same tensor, or something is no policy.
    """
    if isinstance(policy, Plan):
        return policy
    if isinstance(policy, PolicyLike):
        return _Together((policy,))
    given: object = policy
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(
            f"policy is {named(given)}, and must be of type Policy or Composition; {HOW}."
        )
    taken: dict[int, PolicyLike] = {}
    for each in policy:
        _require_policy(each)
        for index in each.edits:
            site = each.sites[index]
            # The output of a block is the input of the next one.
            place = (depth(site) + 1) // 2
            other = taken.setdefault(place, each)
            if other is not each:
                raise InputError(
                    f"policies {other.name} and {each.name} both edit {site.hook_name}; say in "
                    "which order they act with mechguard.compose(first, second)."
                )
    require_distinct(policy)
    return _Together(tuple(policy))


def require_distinct(policies: Sequence[PolicyLike]) -> None:
    """Refuse no policy, or one twice.

    Raises:
        InputError: saying so.
    """
    if not policies or len(set(policies)) < len(policies):
        raise InputError("compose one policy or more, each once.")


def _require_policy(given: object) -> None:
    if not isinstance(given, PolicyLike):
        raise InputError(f"a policy is {named(given)}, and must be of type Policy; {HOW}.")
