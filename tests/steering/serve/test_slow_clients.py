"""Clients that send slowly or read nothing, long prompts, and what waits meanwhile."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serving import NAME, asked, running

from interp.errors import InputError
from steering.serve import app as application
from steering.serve.app import _Answer
from steering.serve.server import Timeouts

SHORT = 0.4
PATIENCE = 30  # of a test; only a server that waits for ever needs it


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, int, Any]]:
    with running(max_batch=1, max_queue=2, timeouts=Timeouts(SHORT, SHORT, SHORT)) as (url, server):
        yield url, int(url.rsplit(":", 1)[1]), server.config.app.state.batcher


def conversation(**options: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": asked()[0].text}], **options}


def post(body: bytes, length: int | None = None) -> bytes:
    """A request, of which the body may be shorter than is told."""
    told = len(body) if length is None else length
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {told}\r\n\r\n"
    )
    return head.encode() + body


def received(port: int, sent: bytes, slowly: bytes = b"") -> bytes:
    """All that comes until the server closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(sent)
        client.settimeout(SHORT / 8)
        end = time.monotonic() + PATIENCE
        letters = iter(slowly)
        while time.monotonic() < end:
            try:
                part = client.recv(65536)
            except TimeoutError:
                letter = next(letters, None)
                if letter is not None:
                    client.sendall(bytes([letter]))
                continue
            if not part:
                return answer
            answer += part
    raise AssertionError("the server kept the connection")


def error(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer that holds an error."""
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(content)["error"]["code"]


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/compl", b"GET /health HTTP/1.1\r\nhost: "])
def test_a_head_that_does_not_come_is_told_408(served: tuple[str, int, Any], sent: bytes) -> None:
    """Also where a letter comes now and then."""
    for slowly in (b"", b"x" * 1000):
        assert error(received(served[1], sent, slowly)) == (408, "request_timeout")


def test_a_body_that_does_not_come_is_told_408(served: tuple[str, int, Any]) -> None:
    for slowly in (b"", b" " * 1000):
        answer = received(served[1], post(b'{"model":', 5000), slowly)
        assert error(answer) == (408, "request_timeout")


def test_a_connection_that_is_idle_between_two_requests_is_closed(
    served: tuple[str, int, Any],
) -> None:
    one = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    assert received(served[1], one).startswith(b"HTTP/1.1 200")
    # The head of a second one that does not come whole.
    answer = received(served[1], one, b"GET / HTTP/1.1\r\nx: " + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answer


def test_a_client_that_does_not_read_its_stream_frees_its_row(
    served: tuple[str, int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port, batcher = served
    chunk = _Answer.chunk

    def large(self: _Answer, delta: dict[str, str], *rest: Any, **more: Any) -> str:
        return chunk(self, delta, *rest, **more) + ": " + "x" * 8_000_000 + "\n\n"

    monkeypatch.setattr(_Answer, "chunk", large)
    go = threading.Event()
    steps: list[int] = []

    def hold(*_: Any) -> None:
        steps.append(1)
        if len(steps) > 2:
            go.wait(PATIENCE)

    hook = batcher.checkpoint.model.register_forward_hook(hold)
    before = batcher.answered
    talkative = max(asked(), key=lambda one: len(one.off.split())).text
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            said = conversation(stream=True, steering="off")
            said["messages"] = [{"role": "user", "content": talkative}]
            client.sendall(post(json.dumps(said).encode()))
            _until(lambda: len(steps) > 2)
            _until(lambda: batcher.load() == (0, 0))  # nobody has read, and nobody waits for it
        go.set()
        _until(lambda: batcher.wait(0))
    finally:
        go.set()
        hook.remove()
    assert batcher.answered == before and len(steps) == 3


def test_health_is_told_while_a_long_prompt_is_read(
    served: tuple[str, int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only so many prompts wait to be read."""
    url = served[0]
    begun, go, read = threading.Event(), threading.Event(), application.parsed
    threads: list[str] = []

    def slow(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        begun.set()
        assert go.wait(PATIENCE)
        return read(*given)

    monkeypatch.setattr(application, "parsed", slow)

    def ask(_: int) -> int:
        answer = httpx.post(f"{url}/v1/chat/completions", json=conversation(), timeout=PATIENCE)
        return answer.status_code

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, number) for number in range(2)]
        try:
            assert begun.wait(PATIENCE)
            _until(lambda: ask(2) == 429)  # a third one
            health = httpx.get(f"{url}/health", timeout=PATIENCE)
            assert health.json()["status"] == "ok" and not any(one.done() for one in asking)
        finally:
            go.set()
        assert [one.result(PATIENCE) for one in asking] == [200, 200]
    assert len(set(threads)) == 1 and threads[0].startswith("mechguard-reader")


def test_a_server_that_drains_says_so_until_it_has_answered() -> None:
    with running(max_batch=1) as (url, server):
        batcher = server.config.app.state.batcher
        go, begun = threading.Event(), threading.Event()

        def hold(*_: Any) -> None:
            begun.set()
            assert go.wait(PATIENCE)

        hook = batcher.checkpoint.model.register_forward_hook(hold)
        with ThreadPoolExecutor(1) as pool:
            endpoint = f"{url}/v1/chat/completions"
            asking = pool.submit(httpx.post, endpoint, json=conversation(), timeout=PATIENCE)
            try:
                assert begun.wait(PATIENCE)
                server.stop()
                health = httpx.get(f"{url}/health", timeout=PATIENCE)
                assert health.status_code == 503
                assert health.json() == {
                    "status": "draining",
                    "waiting": 0,
                    "running": 1,
                    "answered": 0,
                }
                late = httpx.post(endpoint, json=conversation(), timeout=PATIENCE)
                assert late.status_code == 503 and late.json()["error"]["code"] == "shutting_down"
            finally:
                go.set()
                hook.remove()
            text = asking.result(PATIENCE).json()["choices"][0]["message"]["content"]
        assert text == asked()[0].on


def test_a_server_has_some_patience() -> None:
    with pytest.raises(InputError, match="more than 0 seconds"):
        Timeouts(read=0)


def _until(true: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
