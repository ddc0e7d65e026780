"""JSON bodies, read strictly: what two readers could understand in two ways is refused."""

import json
import math
from typing import Any, NoReturn

from interp.resume.sealed import repeated
from steering.serve.errors import RequestError, shown

_DEPTH = 32  # no request that can be answered nests as deeply


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Args:
        body: as it came.

    Raises:
        RequestError: it is no JSON object, a name stands twice in an object, a number is none or
            too large to be one, a text is no valid Unicode, or lists and objects nest too deeply.
    """
    try:
        given = json.loads(body, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except RecursionError as error:
        raise RequestError(_too_deep()) from error
    except ValueError as error:
        # The message of a number of too many digits names a function of Python.
        what = "it holds a number of too many digits" if "int_max" in str(error) else str(error)
        raise RequestError(f"The body is no JSON ({what}).") from error
    if not isinstance(given, dict):
        raise RequestError("The body must be a JSON object with model and messages.")
    _require_sound(given)
    return given


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated(pairs)) is not None:
        raise RequestError(f"The body says {_safe(twice)} twice in one object; say it once.")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise RequestError(f"The body holds {name}, which JSON does not know.")


def _require_sound(given: dict[str, Any]) -> None:
    waiting: list[tuple[Any, int]] = [(given, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEPTH:
            raise RequestError(_too_deep())
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, str):
            _require_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise RequestError("The body holds a number that is too large.")


def _require_text(text: str) -> None:
    if "\0" in text:
        raise RequestError("The body holds the character NUL in a text; leave it out.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The body holds a text that is no valid Unicode ({error.reason})."
        ) from error


def _safe(name: str) -> str:
    """A name that was not checked yet."""
    return shown(name.encode(errors="replace").decode())


def _too_deep() -> str:
    return f"The body nests lists and objects more than {_DEPTH} deep."
