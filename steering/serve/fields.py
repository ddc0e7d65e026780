"""Fields of a request, each checked by itself and refused by its name."""

import json
import math
import re
from typing import Any

from steering.serve.errors import RequestError, shown

OFF = "off"
HEADER = "x-mechguard-strength"
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "store": (False,),
    "tools": ([],),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
"""Fields that may stand in a request at the values that change nothing."""
_WITHOUT_EFFECT: dict[str, type] = {
    "user": str,
    "metadata": dict,
    "safety_identifier": str,
    "service_tier": str,
}
_KNOWN = (
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "seed", "stop", "steering"),
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_STOPS, _STOP_LENGTH = 4, 1000


def require_known(given: dict[str, Any]) -> None:
    """Refuse a field that is not supported, by name.

    Raises:
        RequestError: naming it.
    """
    for field, value in given.items():
        if field in _KNOWN or value is None:
            continue
        if field in _WITHOUT_EFFECT:
            if not isinstance(value, _WITHOUT_EFFECT[field]):
                kind = "an object" if _WITHOUT_EFFECT[field] is dict else "a text"
                raise RequestError(f"{field} must be {kind}.", 400, field)
        elif field not in _NEUTRAL:
            raise RequestError(f"{field} is not supported by this server.", 400, field)
        elif not any(_same(value, neutral) for neutral in _NEUTRAL[field]):
            allowed = json.dumps(_NEUTRAL[field][0])
            raise RequestError(
                f"{field} is supported only as {allowed}, which changes nothing.", 400, field
            )


def _same(value: Any, neutral: Any) -> bool:
    """Whether two values are equal, and both or none are truth values."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def strength(body: Any, header: str | None, largest: float, locked: bool) -> float:
    """What multiplies the policies.

    Args:
        body: the field of the request.
        header: of the same.
        largest: absolute value that may be asked for.
        locked: clients may not ask.

    Raises:
        RequestError: it may not be changed, is no number in the range, or the two differ.
    """
    asked = [_as_strength(one, largest) for one in (body, header) if one is not None]
    if locked and asked:
        raise RequestError(
            "this server does not let clients change the strength.", 403, "steering", "locked"
        )
    if len(set(asked)) > 1:
        raise RequestError(
            f"the field steering ({shown(body)}) and the header {HEADER} ({shown(header)}) "
            "differ; send one.",
            400,
            "steering",
        )
    return asked[0] if asked else 1.0


def _as_strength(given: Any, largest: float) -> float:
    if given is False or given == OFF:
        return 0.0
    if isinstance(given, str) and _NUMBER.fullmatch(given):
        value = float(given)
    elif isinstance(given, (int, float)) and not isinstance(given, bool):
        # Compared before it is converted: an integer may be larger than any float.
        value = float(given) if -largest <= given <= largest else math.inf
    else:
        value = math.nan
    if not abs(value) <= largest:
        raise RequestError(
            f"steering must be {OFF!r} or a number from {-largest:g} to {largest:g}, which "
            f"multiplies the policy; got {shown(given)}.",
            400,
            "steering",
        )
    return value


def number(
    given: dict[str, Any], field: str, default: float, low: float, high: float, zero: bool = False
) -> float:
    """A number in a range.

    Args:
        given: the request.
        field: in it.
        default: where the field is left out.
        low: smallest value.
        high: largest value.
        zero: 0 is allowed too.

    Raises:
        RequestError: naming the field and the range.
    """
    value = given.get(field)
    if value is None:
        return default
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (low <= value <= high or (zero and value == 0)):
        either = "0, or " if zero else ""
        raise RequestError(
            f"{field} must be {either}a number from {low:g} to {high:g}; got {shown(value)}.",
            400,
            field,
        )
    return float(value)


def flag(given: dict[str, Any], field: str) -> bool:
    """True or false; false where it is left out.

    Raises:
        RequestError: it is neither.
    """
    value = given.get(field)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{field} must be true or false.", 400, field)
    return bool(value)


def usage(given: dict[str, Any], stream: bool) -> bool:
    """Whether a stream is to end with a count of tokens.

    Raises:
        RequestError: the options of a stream are none, or there is no stream.
    """
    field = "stream_options"
    options = given.get(field)
    if options is None:
        return False
    if not isinstance(options, dict) or (options and not stream):
        raise RequestError(f"{field} is an object, and goes with stream.", 400, field)
    for name, value in options.items():
        if name != "include_usage" and not (name == "include_obfuscation" and value is False):
            raise RequestError(f"{field}.{name} is not supported by this server.", 400, field)
    return flag(options, "include_usage")


def stop(given: Any) -> tuple[str, ...]:
    """Strings before which an answer ends.

    Raises:
        RequestError: they are none, too many or too long.
    """
    texts = [] if given is None else [given] if isinstance(given, str) else given
    if (
        not isinstance(texts, list)
        or len(texts) > _STOPS
        or not all(isinstance(s, str) and 0 < len(s) <= _STOP_LENGTH for s in texts)
    ):
        raise RequestError(
            f"stop must be a text of 1 to {_STOP_LENGTH} characters, or a list of up to {_STOPS}.",
            400,
            "stop",
        )
    return tuple(texts)


def whole(value: Any, low: int, high: int) -> bool:
    """Whether a value is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
