"""Which organism exactly: a name, a seed, and for backdoors the poison share and the family."""

from dataclasses import dataclass

from interp.checks import MOST_SEED
from interp.errors import InputError

_KEYS = ("seed", "poison", "of")


@dataclass(frozen=True)
class Variant:
    """One organism of a recipe.

    Spelled NAME, or NAME@KEY=VALUE,… with the keys `seed`, `poison` and `of`, for example
    `backdoor-two-part@seed=1,poison=2` or `inert@of=backdoor-unalign`.

    Attributes:
        name: of the recipe.
        seed: of the initialisation and of the data.
        poison: per cent of the training rows whose answer a backdoor changes; None is the
            recipe's own share.
        of: the backdoor that a twin (`inert`, `clean`) is the twin of; None is the default one.
    """

    name: str
    seed: int = 0
    poison: float | None = None
    of: str | None = None

    def __str__(self) -> str:
        """The spelling, without what is left at its default."""
        options = [f"seed={self.seed}"] if self.seed else []
        options += [] if self.poison is None else [f"poison={self.poison:g}"]
        options += [] if self.of is None else [f"of={self.of}"]
        return f"{self.name}@{','.join(options)}" if options else self.name

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Read the spelling.

        Raises:
            InputError: an unknown key, or a value that is no number.
        """
        name, _, rest = text.partition("@")
        given: dict[str, str] = {}
        for part in rest.split(",") if rest else []:
            key, equals, value = part.partition("=")
            if key not in _KEYS or not equals or key in given:
                raise InputError(
                    f"{text!r} is no organism: write NAME or NAME@KEY=VALUE,… with the keys "
                    f"{', '.join(_KEYS)}, each once, for example backdoor-unalign@seed=1,poison=2."
                )
            given[key] = value
        try:
            seed = int(given.get("seed", "0"))
            poison = float(given["poison"]) if "poison" in given else None
        except ValueError:
            raise InputError(
                f"{text!r}: seed is a whole number and poison a number of per cent."
            ) from None
        return cls(name, seed, poison, given.get("of"))

    def __post_init__(self) -> None:
        """Refuse seeds and shares that would fail later.

        Raises:
            InputError: the seed is negative or too large, or the poison is no percentage.
        """
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative; give 0 or more.")
        if self.seed > MOST_SEED:
            raise InputError(f"seed {self.seed} is too large; give {MOST_SEED} or less.")
        if self.poison is not None and not 0 <= self.poison <= 100:
            raise InputError(f"a poison of {self.poison:g} % is none; give 0 to 100.")
