"""What a description in a file must hold: fields, their types and their bounds, as data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_LARGEST = 2**31


@dataclass(frozen=True)
class Field:
    """One field of an object.

    Attributes:
        says: what it is, with its article, such as `a finite number`.
        holds: whether a value is one.
        inside: the fields of the object that it is; others may stand beside them.
        required: whether it must be there.
    """

    says: str
    holds: Callable[[Any], bool]
    inside: Mapping[str, "Field"] = field(default_factory=dict)
    required: bool = True

    def optional(self) -> "Field":
        """The same, which may be absent."""
        return replace(self, required=False)

    def or_null(self) -> "Field":
        """The same, or null."""
        return replace(
            self, says=f"{self.says} or null", holds=lambda v: v is None or self.holds(v)
        )


Fields = Mapping[str, Field]


def require_fields(values: Mapping[str, Any], fields: Fields, within: str = "") -> None:
    """Check that an object has fields, each of its type.

    Args:
        values: the object.
        fields: that it must have.
        within: name of the object, for the message.

    Raises:
        ValueError: naming the field that is absent or of another type, and what it must be.
    """
    for name, wanted in fields.items():
        full = f"{within}{name}"
        if name not in values:
            if wanted.required:
                raise ValueError(f"it lacks {full}, {wanted.says}")
            continue
        value = values[name]
        if not wanted.holds(value):
            raise ValueError(f"{full} is {_shown(value)}, where {wanted.says} is needed")
        if wanted.inside and value is not None:
            require_fields(value, wanted.inside, f"{full}.")


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def is_whole(value: Any, least: int, most: int = _LARGEST) -> bool:
    """Whether it is an integer, no truth value, from `least` to `most`."""
    return type(value) is int and least <= value <= most


def is_span(value: Any) -> bool:
    """Whether it is a list of a start and a stop, which may be null, and a number to skip."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    bounds = all(one is None or is_whole(one, -_LARGEST) for one in value[:2])
    return bounds and is_whole(value[2], 0)


def record(says: str, **inside: Field) -> Field:
    """An object with fields of its own."""
    return Field(says, lambda v: isinstance(v, dict), inside)


def list_of(each: Field, least: int = 0, most: int = _LARGEST) -> Field:
    """A list whose items are all of one type."""
    return Field(
        f"a list of {least} or more, each {each.says}" if least else f"a list, each {each.says}",
        lambda v: isinstance(v, list) and least <= len(v) <= most and all(map(each.holds, v)),
    )


TEXT = Field("text", lambda v: isinstance(v, str))
NAME = Field("a name of at most 200 characters", lambda v: isinstance(v, str) and len(v) <= 200)
FLAG = Field("true or false", lambda v: isinstance(v, bool))
NUMBER = Field("a finite number", is_number)
RATE = Field("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
SIZE = Field("a number from 0 on", lambda v: is_number(v) and v >= 0)
COUNT = Field("an integer from 0 on", lambda v: is_whole(v, 0))
POSITIVE = Field("an integer from 1 on", lambda v: is_whole(v, 1))
LAYER = Field("a layer from 0 on, or null", lambda v: v is None or is_whole(v, 0))
BACKWARD = Field(
    "a position counted back from the last prompt token, -1", lambda v: is_whole(v, -_LARGEST, -1)
)
OBJECT = record("an object")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
