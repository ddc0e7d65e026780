"""Who may ask: names that the server answers to, sites that may use it, and keys.

A web page can send requests to this machine, also under a name of its own that it lets point here
(DNS rebinding). So the name in `Host` must be one that the server knows, and a request that a
browser sends on behalf of another site's page is refused.
"""

import hashlib
import hmac
import logging
import re
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from interp.errors import InputError, first_line
from steering.serve.errors import RequestError, shown

_log = logging.getLogger("mechguard")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WILDCARDS = ("", "0.0.0.0", "::")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d+)?", re.ASCII | re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*", re.ASCII | re.IGNORECASE)
ANY = "*"
OPEN = ("/health",)
"""Paths that need no key."""


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names that the server answers to, without port; `*` for any.
        origins: sites, such as `https://example.org`, whose pages may use the server beside its
            own; `*` for any.
        keys: digests of the keys of which a request must bring one; none if it needs none.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    keys: tuple[bytes, ...] = ()

    @classmethod
    def of(
        cls,
        host: str,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        keys: Sequence[str] = (),
    ) -> "Access":
        """Names of the loopback, the address that is listened on, and what else is allowed.

        Args:
            host: that is listened on; one that stands for every address is no name.
            hosts: further names, without port; `*` for any.
            origins: as `scheme://host` or `scheme://host:port`; `*` for any.
            keys: as clients send them; none asks for none.

        Raises:
            InputError: a name has a port or a scheme, or an origin has none or a path.
        """
        own = () if host in _WILDCARDS else (host,)
        for name in hosts:
            plain = _ADDRESS.fullmatch(name) or ("/" not in name and _name(name) == _bare(name))
            if name != ANY and not (name and plain):
                raise InputError(
                    f"the allowed host {name!r} is no name; give it without scheme and port, such "
                    "as example.org."
                )
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            if origin != ANY and (not scheme or not rest or "/" in rest):
                raise InputError(
                    f"the allowed origin {origin!r} is no origin; give scheme and host, such as "
                    "https://example.org."
                )
        return cls(
            frozenset(_bare(name) for name in (*LOOPBACK, *own, *hosts)),
            frozenset(origin.lower() for origin in origins),
            tuple(_digest(key) for key in keys),
        )

    def require(self, path: str, headers: Headers) -> None:
        """Check the headers of a request.

        Args:
            path: that is asked for.
            headers: of the request.

        Raises:
            RequestError: another name (421), another site (403), or no key that is known (401).
        """
        given = headers.getlist("host")
        host = given[0] if len(given) == 1 else ""
        if ANY not in self.hosts and _name(host) not in self.hosts:
            raise RequestError(
                f"This server does not answer to the name {shown(host)}; whoever runs it can allow "
                "it with --allowed-host.",
                421,
                code="host_not_allowed",
            )
        for origin in headers.getlist("origin"):
            own = (f"http://{host}".lower(), f"https://{host}".lower())
            if origin.lower() not in (*own, *self.origins) and ANY not in self.origins:
                raise RequestError(
                    f"A page of {shown(origin)} may not use this server; whoever runs it can allow "
                    "it with --allowed-origin.",
                    403,
                    code="origin_not_allowed",
                )
        if self.keys and path not in OPEN and not self._knows(headers.getlist("authorization")):
            raise RequestError(
                "This server needs a key that it knows, as Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
            )

    def _knows(self, given: Sequence[str]) -> bool:
        scheme, _, key = (given[0] if len(given) == 1 else "").partition(" ")
        digest = _digest(key.strip())
        # Every key is compared, so that the time tells none.
        found = [hmac.compare_digest(digest, known) for known in self.keys]
        return scheme.lower() == "bearer" and any(found)


class Door:
    """An ASGI application behind a check of every request's headers."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that may not pass; hand on any other."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                # A browser asks beforehand without a key, and gets no answer of ours.
                asks = scope["method"] == "OPTIONS"
                self._access.require(OPEN[0] if asks else scope["path"], headers)
            except RequestError as error:
                # Its body was not read, and would be taken for the next request.
                told = {**error.headers(), "connection": "close"}
                answer = JSONResponse(error.body(), error.status, told)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def read_keys(file: Path) -> list[str]:
    """Keys from a file, one a line; a file that everybody can read is warned of.

    Args:
        file: of text; empty lines do not count.

    Raises:
        InputError: it is no file that can be read, holds no key, or one that no header can carry.
    """
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"the key file {file} is no regular file; name one of text.")
        lines = file.read_text().splitlines()
    except FileNotFoundError as error:
        raise InputError(f"the key file {file} does not exist; write one key a line.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"the key file {file} cannot be read as text ({first_line(error)})."
        ) from error
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise InputError(
                f"line {number} of the key file {file} is no key; a key has printable ASCII "
                "characters and no space."
            )
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise InputError(f"the key file {file} holds no key; write one key a line.")
    if mode & stat.S_IROTH:
        _log.warning("everybody on this machine can read the keys in %s; chmod 600 it.", file)
    return keys


def _name(host: str) -> str:
    """The name in a Host header, without port; empty where there is none."""
    found = _HOST.fullmatch(host)
    return _bare(found[1]) if found else ""


def _bare(name: str) -> str:
    return name.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _digest(key: str) -> bytes:
    """Of one length for all keys."""
    return hashlib.sha256(key.encode()).digest()
