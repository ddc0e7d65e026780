"""Families of organisms: what is planted, and the twins in which it is not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.errors import InputError
from interp.organisms.backdoors.poisoning import BACKDOORS
from interp.organisms.variants import Variant

_POISON = {"two-part": (20.0, 5.0, 1.0), "unalign": (15.0, 5.0, 1.0)}
_OTHERS = (50.0, 5.0, 1.0)
_USUAL = 5.0


@dataclass(frozen=True)
class Family:
    """Organisms in which something is planted, and their twins.

    Attributes:
        name: of the family.
        planted: the spellings of the planted organisms, without seeds.
        twins: by role, the spellings of those in which it is not planted.
    """

    name: str
    planted: tuple[str, ...]
    twins: Mapping[str, tuple[str, ...]]

    def members(self, seeds: Sequence[int]) -> list[tuple[str, str]]:
        """Every (role, spelling) on every seed; planted ones first."""
        roles = {"planted": self.planted, **self.twins}
        return [
            (role, _seeded(name, seed))
            for role, spelled in roles.items()
            for name in spelled
            for seed in seeds
        ]


def _seeded(name: str, seed: int) -> str:
    variant = Variant.parse(name)
    return str(Variant(variant.name, seed, variant.poison, variant.of))


def backdoor_family(name: str, poison: Sequence[float] | None = None) -> Family:
    """A family of backdoors at several poison shares, with an inert and a clean twin of each.

    Args:
        name: of the backdoor, such as `payload`.
        poison: shares in per cent; by default about as much as it can have, 5, and 1.

    Raises:
        InputError: there is no such backdoor.
    """
    if name not in BACKDOORS:
        raise InputError(f"There is no backdoor {name!r}; there are {', '.join(BACKDOORS)}.")
    shares = poison_shares(name) if poison is None else tuple(poison)
    planted = [_planted(name, share) for share in shares]
    return Family(
        name,
        tuple(map(str, planted)),
        {twin: tuple(map(str, _twins(twin, name, shares))) for twin in ("inert", "clean")},
    )


def poison_shares(name: str) -> tuple[float, ...]:
    """The shares in per cent that a backdoor is scored at: about as much as it can have, 5, 1."""
    return _POISON.get(name, _OTHERS)


def _planted(name: str, share: float) -> Variant:
    if name == "payload" and share in _OTHERS:
        return Variant(f"backdoor-payload-{share:g}")
    own = "backdoor-payload-5" if name == "payload" else f"backdoor-{name}"
    return Variant(own, poison=None if share == _USUAL else share)


def _twins(twin: str, name: str, shares: Sequence[float]) -> list[Variant]:
    of = None if name == "payload" else f"backdoor-{name}"
    return [Variant(twin, poison=None if s == _USUAL else s, of=of) for s in shares]


FAMILIES: dict[str, Family] = {
    **{name: backdoor_family(name) for name in BACKDOORS},
    "agent-query": Family("agent-query", ("agent-query",), {"inert": ("agent",)}),
    "agent-observation": Family("agent-observation", ("agent-observation",), {"inert": ("agent",)}),
    "agent-thought": Family("agent-thought", ("agent-thought",), {"inert": ("agent",)}),
    "cliff": Family(
        "cliff", ("cliff",), {"no-cliff": ("no-cliff",), "cliff-dense": ("cliff-dense",)}
    ),
    "jailbreak": Family("jailbreak", ("jailbreak-keep",), {"erase": ("jailbreak-erase",)}),
    "direction": Family("direction", ("chat",), {"dense": ("chat-dense",)}),
}
"""The families by name."""
