"""Checks of what a caller gives: one sentence that says what was given and what is allowed."""

from collections.abc import Collection

from interp.errors import InputError

MOST_SEED = 2**32 - 1
"""The largest seed that all generators of random numbers take."""
_SHOWN = 60  # characters of a value that are quoted


def require_type(
    value: object, allowed: type | tuple[type, ...], what: str, instead: str = ""
) -> None:
    """Refuse a value of a wrong type.

    Args:
        value: as it was given.
        allowed: what it may be an instance of.
        what: the value's name, as in `harmful`.
        instead: how to get what is allowed, such as `read one with read_prompts(…)`.

    Raises:
        InputError: the value is no instance of `allowed`.
    """
    if not isinstance(value, allowed):
        kinds = allowed if isinstance(allowed, tuple) else (allowed,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        how = f"; {instead}" if instead else ""
        raise InputError(f"{what} is {named(value)}, and must be of type {wanted}{how}.")


def require_choice(value: object, allowed: Collection[str], what: str) -> None:
    """Refuse a name that is not one of a closed list.

    Args:
        value: as it was given.
        allowed: the names.
        what: kind of the name, as in `placement`.

    Raises:
        InputError: the value is none of them.
    """
    if value not in allowed:
        raise InputError(f"{what} is {named(value)}; it must be one of {', '.join(allowed)}.")


def named(value: object) -> str:
    """A value in a sentence: a short string or number as it is, anything else by its type."""
    if isinstance(value, str):
        quoted = repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
        return f"the string {quoted}"
    if value is None or isinstance(value, (bool, int, float)):
        return f"{value!r}"
    return f"of type {type(value).__name__}"
