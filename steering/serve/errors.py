"""Errors that a client is told, in OpenAI's shape."""

from typing import Any

_LONGEST = 500  # characters of a message


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
        super().__init__(clipped(message))
        self.status, self.param, self.code = status, param and clipped(param, 80), code

    def body(self) -> dict[str, Any]:
        """As OpenAI words errors."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 401:
            kind = "authentication_error"
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

    def headers(self) -> dict[str, str]:
        """Of the HTTP response."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        if self.status in (429, 503):
            return {"retry-after": "1"}
        # What is left of a body that was not read would be taken for the next request.
        return {"connection": "close"} if self.status in (408, 413, 415) else {}


def clipped(text: str, most: int = _LONGEST) -> str:
    """A text that may hold what a client sent, cut to a length that can be shown."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown(value: Any) -> str:
    """What a client sent in a field, short enough for a message."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a very large number"
    if isinstance(value, str):
        return repr(clipped(value, 60))
    return "an object" if isinstance(value, dict) else "a list"
