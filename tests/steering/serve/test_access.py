"""Who may ask: names, sites and keys."""

import asyncio
import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import NAME, checkpoint, policy
from starlette.datastructures import Headers

from interp.errors import InputError
from steering.runtime.runtime import apply
from steering.serve.access import Access, read_keys
from steering.serve.app import make_app
from steering.serve.batcher import Batcher
from steering.serve.errors import RequestError
from steering.serve.requests import Limits

KEYS = ("sk-one", "sk-two")


def status(access: Access, path: str = "/v1/models", **headers: str) -> int:
    try:
        access.require(path, Headers({"host": "localhost", **headers}))
    except RequestError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8000",
        "localhost.",
    ],
)
def test_names_of_the_loopback_are_answered(host: str) -> None:
    assert status(Access.of("127.0.0.1"), host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "localhost:8000:8000",
        "localhost:http",
        "[::1].evil.example:80",
        "0.0.0.0:8000",
        "192.168.1.5:8000",
        "localhost ",
    ],
)
def test_other_names_are_not(host: str) -> None:
    assert status(Access.of("127.0.0.1"), host=host) == 421
    assert status(Access.of("0.0.0.0"), host=host) == 421


def test_the_address_that_is_listened_on_and_allowed_names_are_answered() -> None:
    assert status(Access.of("192.168.1.5"), host="192.168.1.5:8000") == 200
    assert status(Access.of("fe80::1"), host="[FE80::1]:8000") == 200
    access = Access.of("0.0.0.0", ["Steer.Example", "2001:db8::7"])
    assert status(access, host="steer.example:443") == status(access, host="[2001:db8::7]") == 200
    assert status(access, host="other.example") == 421
    assert status(Access.of("0.0.0.0", ["*"]), host="other.example") == 200
    two = Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")])
    with pytest.raises(RequestError, match="does not answer"):
        Access.of("127.0.0.1").require("/", two)


def test_pages_of_other_sites_are_refused() -> None:
    access = Access.of("127.0.0.1")
    for origin in ("http://evil.example", "null", "", "http://localhost", "http://localhost:9"):
        assert status(access, host="localhost:8000", origin=origin) == 403
    for origin in ("http://localhost:8000", "https://LOCALHOST:8000"):
        assert status(access, host="localhost:8000", origin=origin) == 200
    access = Access.of("127.0.0.1", origins=["https://Chat.example"])
    assert status(access, origin="https://chat.example") == 200
    assert status(access, origin="http://chat.example") == 403
    assert status(access, origin="https://chat.example:8443") == 403
    assert status(Access.of("127.0.0.1", origins=["*"]), origin="null") == 200


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hosts": ["http://a.example"]}, "without scheme and port"),
        ({"hosts": ["a.example:80"]}, "without scheme and port"),
        ({"hosts": [""]}, "without scheme and port"),
        ({"origins": ["a.example"]}, "give scheme and host"),
        ({"origins": ["https://a.example/chat"]}, "give scheme and host"),
    ],
)
def test_what_is_no_name_and_no_origin_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Access.of("127.0.0.1", **given)


def test_keys_are_asked_for_but_not_for_health(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access.of("127.0.0.1", keys=KEYS)
    for key in KEYS:
        assert status(access, authorization=f"Bearer {key}") == 200
        assert status(access, authorization=f"bearer  {key}") == 200
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer sk-on",
        "Bearer sk-one2",
        "Basic sk-one",
        "sk-one",
    ):
        assert status(access, authorization=wrong) == 401
    assert status(access, authorization="Bearer sk-öne") == 401
    assert status(access) == 401 and status(access, "/health") == 200
    assert status(access, "/health/../v1/models") == 401
    compared: list[bytes] = []
    compare: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    assert status(access, authorization="Bearer sk-one") == 200
    assert len(compared) == len(KEYS) and len(set(map(len, compared))) == 1
    assert "sk-one" not in repr(access)


def test_keys_from_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-one\n\n  sk-two  \n")
    file.chmod(0o600)
    with caplog.at_level(logging.WARNING, "mechguard"):
        assert read_keys(file) == list(KEYS) and not caplog.records
        file.chmod(0o644)
        assert read_keys(file) == list(KEYS)
    (record,) = caplog.records
    assert "everybody" in record.getMessage() and "sk-" not in record.getMessage()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "holds no key"),
        (b"\n \n", "holds no key"),
        (b"sk one\n", "line 1"),
        ("sk-one\nsk-öne\n".encode(), "line 2"),
        (b"sk-one\n\xff\n", "cannot be read as text"),
    ],
)
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_keys(file)
    with pytest.raises(InputError, match="no regular file"):
        read_keys(tmp_path)
    with pytest.raises(InputError, match="no regular file"):
        read_keys(Path("/dev/zero"))


def _get(app: Any, method: str, path: str, **headers: str) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(get())


def test_refusals_have_the_shape_of_openai_and_health_says_when_it_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with apply(checkpoint(), policy()) as attachment:
        batcher = Batcher(attachment)
        access = Access.of("127.0.0.1", origins=["https://chat.example"], keys=KEYS)
        app = make_app(batcher, NAME, Limits(), access)
        key = {"authorization": "Bearer sk-one"}
        refused = {
            401: _get(app, "GET", "/v1/models"),
            403: _get(app, "GET", "/v1/models", origin="https://evil.example", **key),
            421: _get(app, "GET", "/v1/models", host="evil.example", **key),
        }
        for status, answer in refused.items():
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.headers["connection"] == "close"
        assert refused[401].headers["www-authenticate"] == "Bearer"
        assert refused[401].json()["error"]["code"] == "invalid_api_key"
        good = _get(app, "GET", "/v1/models", origin="https://chat.example", **key)
        assert good.status_code == 200 and good.json()["data"][0]["id"] == NAME
        assert good.headers["access-control-allow-origin"] == "https://chat.example"
        asks = {"access-control-request-method": "POST", "origin": "https://chat.example"}
        before = _get(app, "OPTIONS", "/v1/chat/completions", **asks)
        assert before.status_code == 200
        assert "x-mechguard-strength" in before.headers["access-control-allow-headers"].lower()
        healthy = _get(app, "GET", "/health")
        assert healthy.status_code == 200
        assert healthy.json() == {"status": "ok", "waiting": 0, "running": 0, "answered": 0}
        monkeypatch.setattr(batcher, "load", lambda: 1 / 0)
        broken = _get(app, "GET", "/health")
        assert broken.status_code == 500 and "division" not in broken.text
        assert broken.json()["error"]["type"] == "server_error"
        monkeypatch.undo()
        batcher.drain()
        healthy = _get(app, "GET", "/health")
        assert healthy.status_code == 503 and healthy.json()["status"] == "draining"
