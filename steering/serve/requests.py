"""Bodies of `/v1/chat/completions`: what is taken, what is refused, and in whose words.

A field that would change the answer and is not supported is refused by name, never ignored.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.data.segments import chat_row
from interp.errors import InputError
from steering.serve.body import json_object
from steering.serve.errors import RequestError, shown
from steering.serve.fields import (
    HEADER,
    flag,
    number,
    require_known,
    stop,
    strength,
    usage,
    whole,
)

_log = logging.getLogger("mechguard")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SMALLEST = 1e-6  # of a temperature that samples, and of top_p


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_tokens: of an answer.
        default_tokens: of an answer whose request does not say.
        max_body: bytes of a request.
        max_strength: largest absolute strength.
        locked: clients may not change the strength.
        max_messages: of a conversation.
        max_characters: of a conversation; None for any number.
    """

    max_tokens: int = 1024
    default_tokens: int = 256
    max_body: int = 1_000_000
    max_strength: float = 4.0
    locked: bool = False
    max_messages: int = 1024
    max_characters: int | None = None

    def on(self, checkpoint: Checkpoint) -> "Limits":
        """With the characters that fit into a checkpoint's context, so that more need no tokens.

        As many as its tokens hold if each is the longest there is, with a space behind it, which
        some tokenizers drop.
        """
        context, tokenizer = checkpoint.anatomy.context, checkpoint.tokenizer
        if self.max_characters is not None or context is None or tokenizer is None:
            return self
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        return replace(self, max_characters=context * (longest + 1))


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
    given = json_object(body)
    require_known(given)
    if given.get("model") != name:
        raise RequestError(
            f"The model {shown(given.get('model'))} does not exist; this server has {name!r}.",
            404,
            "model",
            "model_not_found",
        )
    options = _options(given, headers, limits)
    # What costs most comes last, when nothing else is to be refused.
    field, asked = _asked_tokens(given, limits)
    row = _row(given.get("messages"), checkpoint, limits)
    return ChatRequest(row, _tokens(field, asked, row, checkpoint, limits), **options)


def _options(given: dict[str, Any], headers: Mapping[str, str], limits: Limits) -> dict[str, Any]:
    """All of a request but its prompt and its length."""
    stream, seed = flag(given, "stream"), given.get("seed")
    if seed is not None and not whole(seed, -(2**63), 2**63 - 1):
        raise RequestError("seed must be a whole number of 64 bits.", 400, "seed")
    steering = strength(
        given.get("steering"), headers.get(HEADER), limits.max_strength, limits.locked
    )
    return {
        "strength": steering,
        "temperature": number(given, "temperature", 0.0, _SMALLEST, 2.0, zero=True),
        "top_p": number(given, "top_p", 1.0, _SMALLEST, 1.0),
        "seed": seed,
        "stop": stop(given.get("stop")),
        "stream": stream,
        "usage": usage(given, stream),
    }


def _row(messages: Any, checkpoint: Checkpoint, limits: Limits) -> Row:
    if not isinstance(messages, list) or not 0 < len(messages) <= limits.max_messages:
        raise RequestError(
            f"messages must be a list of 1 to {limits.max_messages} messages.", 400, "messages"
        )
    said = [_message(index, message) for index, message in enumerate(messages)]
    characters = sum(len(message["content"]) for message in said)
    if limits.max_characters is not None and characters > limits.max_characters:
        raise RequestError(
            f"The messages have {characters} characters, and no more than {limits.max_characters} "
            f"can fit into the model's context of {checkpoint.anatomy.context} tokens.",
            400,
            "messages",
            "context_length_exceeded",
        )
    try:
        return chat_row(checkpoint, said)
    except InputError as error:
        raise RequestError(str(error), 400, "messages") from error
    except Exception as error:
        # A template or tokenizer of whatever making; what it says goes to the log alone.
        _log.exception("a conversation could not be read")
        raise RequestError(
            "The model's template or tokenizer cannot read these messages.", 400, "messages"
        ) from error


def _message(index: int, message: Any) -> dict[str, str]:
    where = f"messages.{index}"
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
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
    return {"role": _ROLES[role], "content": content}


def _asked_tokens(given: dict[str, Any], limits: Limits) -> tuple[str, int | None]:
    """The field that says how long an answer may be, and what it says."""
    names = ("max_completion_tokens", "max_tokens")
    said = {name: given[name] for name in names if given.get(name) is not None}
    for name, value in said.items():
        if not whole(value, 1, limits.max_tokens):
            raise RequestError(
                f"{name} must be a whole number from 1 to {limits.max_tokens}; got {shown(value)}.",
                400,
                name,
            )
    if len(set(said.values())) > 1:
        raise RequestError(f"{' and '.join(names)} differ; send one.", 400, names[1])
    return next(iter(said.items()), (names[1], None))


def _tokens(field: str, asked: int | None, row: Row, checkpoint: Checkpoint, limits: Limits) -> int:
    context = checkpoint.anatomy.context
    room = math.inf if context is None else context - len(row)
    wanted = asked if asked is not None else int(min(limits.default_tokens, max(room, 1)))
    if wanted > room:
        raise RequestError(
            f"The prompt has {len(row)} tokens and the answer may have {wanted}, but the model "
            f"holds {context} in all; send a shorter prompt or a smaller {field}.",
            400,
            "messages",
            "context_length_exceeded",
        )
    return int(wanted)
