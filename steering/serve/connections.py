"""Connections that do not wait for ever: for a request's head, or for a client that reads nothing.

uvicorn ends a connection that is idle between two requests. This adds an end to one that has sent
no whole request head since it was opened or since its first byte, and to one whose client takes
none of what is written to it. The body has a limit of its own, in the application.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from steering.serve.errors import RequestError


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with limits to its patience.

    Attributes:
        read_timeout: seconds until the head of a request must be there.
        send_timeout: seconds in which a client must read something of what waits for it.
    """

    read_timeout: float = 30.0
    send_timeout: float = 60.0
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Some of a request has come."""
        if self._idle and self._reading is None:
            self._await_head()
        super().data_received(data)
        if not self._idle:
            self._stop_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_reading()
        self._stop_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What was written is not read."""
        super().pause_writing()
        self._stop_writing()
        self._writing = self.loop.call_later(self.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It is read again."""
        self._stop_writing()
        super().resume_writing()

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or bool(cycle.response_complete)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._writing = None

    def _await_head(self) -> None:
        self._reading = self.loop.call_later(self.read_timeout, self._too_slow)

    def _too_slow(self) -> None:
        self._reading = None
        if self.transport.is_closing() or not self._idle:
            return
        error = RequestError(
            f"No whole request head has come within {self.read_timeout:g} seconds.",
            408,
            code="request_timeout",
        )
        content = json.dumps(error.body()).encode()
        head = (
            "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()


def patient(read_timeout: float, send_timeout: float) -> type[PatientProtocol]:
    """The protocol with these limits, as uvicorn takes a class.

    Args:
        read_timeout: seconds until the head of a request must be there.
        send_timeout: seconds in which a client must read something.
    """
    limits = {"read_timeout": read_timeout, "send_timeout": send_timeout}
    return type("LimitedProtocol", (PatientProtocol,), limits)
