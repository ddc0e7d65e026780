"""Bodies of `/v1/chat/completions`: what is taken, what is refused, and in whose words.

A field that would change the answer and is not supported is refused by name, never ignored.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.data.segments import chat_row
from interp.errors import InputError

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
_WITHOUT_EFFECT = ("user", "metadata", "safety_identifier", "service_tier")
_KNOWN = (
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "seed", "stop", "steering"),
)
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class RequestError(Exception):
    """A request that is answered with an error in OpenAI's shape.

    Attributes:
        status: of the HTTP response.
        param: the field at fault.
        code: a word for programs.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI words errors."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_tokens: of an answer.
        default_tokens: of an answer whose request does not say.
        max_body: bytes of a request.
        max_strength: largest absolute strength.
        locked: clients may not change the strength.
    """

    max_tokens: int = 1024
    default_tokens: int = 256
    max_body: int = 1_000_000
    max_strength: float = 4.0
    locked: bool = False


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered.

    Attributes:
        row: the prompt.
        max_tokens: of the answer.
        strength: multiplies the policies; 0 turns them off.
        temperature: 0 is greedy.
        top_p: share of the probability that is sampled from.
        seed: of the sampling; None draws a new one.
        stop: strings before which an answer ends.
        stream: send it in pieces.
        usage: end a stream with a count of tokens.
    """

    row: Row
    max_tokens: int
    strength: float = 1.0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False


def parsed(
    body: bytes, headers: Mapping[str, str], checkpoint: Checkpoint, name: str, limits: Limits
) -> ChatRequest:
    """Check a request and tokenise its prompt.

    Args:
        body: as it came.
        headers: lower-case names.
        checkpoint: that answers.
        name: of the model, as clients call it.
        limits: of one request.

    Raises:
        RequestError: naming the field, and what is allowed.
    """
    given = _object(body)
    _require_known(given)
    if given.get("model") != name:
        raise RequestError(
            f"The model {given.get('model')!r} does not exist; this server has {name!r}.",
            404,
            "model",
            "model_not_found",
        )
    row = _row(given.get("messages"), checkpoint)
    stream = _flag(given, "stream")
    options = given.get("stream_options") or {}
    if not isinstance(options, dict) or (options and not stream):
        raise RequestError("stream_options is an object, and goes with stream.", 400, "stream")
    seed = given.get("seed")
    if seed is not None and not _whole(seed, -(2**63), 2**63 - 1):
        raise RequestError("seed must be a whole number of 64 bits.", 400, "seed")
    return ChatRequest(
        row,
        _tokens(given, row, checkpoint, limits),
        _strength(given, headers, limits),
        _number(given, "temperature", 0.0, 0.0, 2.0),
        _number(given, "top_p", 1.0, 0.0, 1.0),
        seed,
        _stop(given.get("stop")),
        stream,
        _flag(options, "include_usage"),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The body is no JSON ({error}).") from error
    if not isinstance(given, dict):
        raise RequestError("The body must be a JSON object with model and messages.")
    return given


def _require_known(given: dict[str, Any]) -> None:
    for field, value in given.items():
        if field in _KNOWN or field in _WITHOUT_EFFECT or value is None:
            continue
        if field not in _NEUTRAL:
            raise RequestError(f"{field} is not supported by this server.", 400, field)
        if value not in _NEUTRAL[field]:
            allowed = json.dumps(_NEUTRAL[field][0])
            raise RequestError(
                f"{field} is supported only as {allowed}, which changes nothing.", 400, field
            )


def _row(messages: Any, checkpoint: Checkpoint) -> Row:
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of at least one message.", 400, "messages")
    said = [_message(number, message) for number, message in enumerate(messages)]
    try:
        return chat_row(checkpoint, said)
    except InputError as error:
        raise RequestError(str(error), 400, "messages") from error


def _message(number: int, message: Any) -> dict[str, str]:
    where = f"messages.{number}"
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise RequestError(
            f"{where} needs a role of {', '.join(_ROLES)} and a content.", 400, where
        )
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) < len(content) or any(not isinstance(p.get("text"), str) for p in parts):
            raise RequestError(f"{where} holds parts that are no text.", 400, where)
        content = "".join(part["text"] for part in parts)
    if not isinstance(content, str):
        raise RequestError(f"{where} needs a content of text.", 400, where)
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{where} is no valid Unicode ({error.reason}).", 400, where) from error
    return {"role": _ROLES[message["role"]], "content": content}


def _tokens(given: dict[str, Any], row: Row, checkpoint: Checkpoint, limits: Limits) -> int:
    field = "max_completion_tokens" if given.get("max_completion_tokens") else "max_tokens"
    asked, context = given.get(field), checkpoint.anatomy.context
    if asked is not None and not _whole(asked, 1, limits.max_tokens):
        raise RequestError(
            f"{field} must be a whole number from 1 to {limits.max_tokens}.", 400, field
        )
    room = math.inf if context is None else context - len(row)
    wanted = asked if asked is not None else int(min(limits.default_tokens, max(room, 1)))
    if wanted > room:
        raise RequestError(
            f"The prompt has {len(row)} tokens and the answer may have {wanted}, but the model "
            f"holds {context} in all; send a shorter prompt or a smaller max_tokens.",
            400,
            "messages",
            "context_length_exceeded",
        )
    return int(wanted)


def _strength(given: dict[str, Any], headers: Mapping[str, str], limits: Limits) -> float:
    body, header = given.get("steering"), headers.get(HEADER)
    asked = [_as_strength(one, limits) for one in (body, header) if one is not None]
    if limits.locked and asked:
        raise RequestError(
            "this server does not let clients change the strength.", 403, "steering", "locked"
        )
    if len(set(asked)) > 1:
        raise RequestError(
            f"the field steering ({body}) and the header {HEADER} ({header}) differ; send one.",
            400,
            "steering",
        )
    return asked[0] if asked else 1.0


def _as_strength(given: Any, limits: Limits) -> float:
    if given is False or given == OFF:
        return 0.0
    try:
        strength = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        strength = math.nan
    if not abs(strength) <= limits.max_strength:
        raise RequestError(
            f"steering must be {OFF!r} or a number from {-limits.max_strength:g} to "
            f"{limits.max_strength:g}, which multiplies the policy; got {given!r}.",
            400,
            "steering",
        )
    return strength


def _number(given: dict[str, Any], field: str, default: float, low: float, high: float) -> float:
    value = given.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RequestError(f"{field} must be a number from {low:g} to {high:g}.", 400, field)
    return float(value)


def _flag(given: dict[str, Any], field: str) -> bool:
    value = given.get(field)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{field} must be true or false.", 400, field)
    return bool(value)


def _stop(given: Any) -> tuple[str, ...]:
    stop = [given] if isinstance(given, str) else given or []
    if (
        not isinstance(stop, list)
        or len(stop) > 4
        or not all(isinstance(s, str) and s for s in stop)
    ):
        raise RequestError("stop must be a string, or a list of up to four.", 400, "stop")
    return tuple(stop)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
