"""The HTTP side: `/v1/chat/completions`, `/v1/models` and `/health`, in OpenAI's words.

Decisions stand in the headers of every answer, streamed or not, because no header is sent before
the prompt was read; a stream repeats them in its first chunk, for clients that see no headers.
"""

import asyncio
import copy
import functools
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from steering.runtime.decisions import Decision
from steering.serve.access import Access, Door
from steering.serve.batcher import Batcher
from steering.serve.errors import RequestError
from steering.serve.fields import HEADER
from steering.serve.jobs import Done, Event, Failed, Job, Piece, Started
from steering.serve.requests import ChatRequest, Limits, parsed

_log = logging.getLogger("mechguard")
DECISION, DECISIONS, STRENGTH = (
    "x-mechguard-decision",
    "x-mechguard-decisions",
    "x-mechguard-strength",
)


def make_app(
    batcher: Batcher, name: str, limits: Limits, access: Access, read_timeout: float = 30.0
) -> FastAPI:
    """The application around a batcher, which it starts and closes.

    Args:
        batcher: that answers.
        name: of the model, as clients call it.
        limits: of one request.
        access: who may ask.
        read_timeout: seconds until the body of a request must be there.
    """
    endpoint = _Endpoint(batcher, name, limits.on(batcher.checkpoint), read_timeout)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.close)
        endpoint.close()

    app = FastAPI(title="mechguard", lifespan=lifespan, openapi_url=None)
    app.state.batcher = batcher
    app.add_api_route("/v1/chat/completions", endpoint.chat, methods=["POST"])
    app.add_api_route("/v1/models", endpoint.models, methods=["GET"])
    app.add_api_route("/health", endpoint.health, methods=["GET"])
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _broken)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", HEADER],
            expose_headers=[DECISION, DECISIONS, STRENGTH],
        )
    app.add_middleware(Door, access=access)  # the last one added is the outermost
    return app


class _Endpoint:
    """What the routes share."""

    def __init__(self, batcher: Batcher, name: str, limits: Limits, read_timeout: float) -> None:
        self.batcher, self.name, self.limits = batcher, name, limits
        self.read_timeout = read_timeout
        self.created = int(time.time())
        # Requests are read in a thread, so that a long prompt keeps no other client waiting: in
        # one, because a tokenizer may not be used in two, and with a tokenizer of its own.
        tokenizer = copy.deepcopy(batcher.checkpoint.tokenizer)
        self._checkpoint = replace(batcher.checkpoint, tokenizer=tokenizer)
        self._reader = ThreadPoolExecutor(1, "mechguard-reader")
        self._read = 0

    def close(self) -> None:
        """End the thread that reads."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def health(self) -> Response:
        """Whether requests are taken, and how many there are."""
        waiting, running = self.batcher.load()
        draining = self.batcher.draining
        state = {
            "status": "draining" if draining else "ok",
            "waiting": waiting,
            "running": running,
            "answered": self.batcher.answered,
        }
        return JSONResponse(state, 503 if draining else 200)

    async def models(self) -> Response:
        """The one model, and what steers it."""
        policies = [
            {"name": policy.name, "method": policy.method, "strength": policy.strength}
            for policy in self.batcher.attachment.composition.policies
        ]
        model = {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "mechguard",
            "steering": policies,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        asked = await self._parsed(request)
        events: asyncio.Queue[Event] = asyncio.Queue()
        job = Job(asked, _publisher(events))
        self.batcher.submit(job)
        try:
            first = await _unless_gone(request, events.get())
            if isinstance(first, Failed):
                raise first.error
            assert isinstance(first, Started)  # it comes before any text
            answer = _Answer(self.name, asked, first.decisions)
            if asked.stream:
                return _Stream(_chunks(answer, events), job, answer.headers)
            whole = await _unless_gone(request, _whole(answer, events))
            return JSONResponse(whole, headers=answer.headers)
        except BaseException:
            job.cancel()  # also where the client has hung up
            raise

    async def _parsed(self, request: Request) -> ChatRequest:
        """The request, read and tokenised in the thread for that.

        Raises:
            RequestError: it is refused, too many are being read (429), or its client is gone.
        """
        try:
            async with asyncio.timeout(self.read_timeout):
                body = await _body(request, self.limits.max_body)
        except TimeoutError as error:
            raise RequestError(
                f"The body has not come within {self.read_timeout:g} seconds.",
                408,
                code="request_timeout",
            ) from error
        except ClientDisconnect as error:
            raise RequestError("The client has hung up.", 499) from error
        if self._read >= self.batcher.max_queue:
            raise RequestError(
                f"{self._read} requests are being read already; try again later.",
                429,
                code="queue_full",
            )
        # One that was sent twice is no number, and refused.
        sent = {HEADER: ", ".join(request.headers.getlist(HEADER))}
        headers: Mapping[str, str] = sent if HEADER in request.headers else {}
        read = functools.partial(parsed, body, headers, self._checkpoint, self.name, self.limits)
        self._read += 1
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._reader, read)
            asked: ChatRequest = await _unless_gone(request, reading)
            return asked
        finally:
            self._read -= 1


class _Stream(StreamingResponse):
    """Frees the row of a client that hangs up, even before the first chunk was asked for."""

    def __init__(self, chunks: AsyncIterator[str], job: Job, headers: dict[str, str]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self._job = job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


class _Answer:
    """The frame of one answer, whole or in chunks."""

    def __init__(self, model: str, asked: ChatRequest, decisions: Sequence[Decision]) -> None:
        self.asked = asked
        self.base = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self.decided(decisions)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """What policies do with the prompt; again where the answer starts again."""
        self.steering = [
            {key: value for key, value in asdict(one).items() if key != "row"} for one in decisions
        ]
        self.headers = {
            DECISION: "open" if any(one.open for one in decisions) else "closed",
            DECISIONS: json.dumps(self.steering),
            STRENGTH: f"{self.asked.strength:g}",
        }

    def whole(self, text: str, done: Done) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.reason}
        return {
            **self.base,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(done),
            "steering": self.steering,
        }

    def chunk(self, delta: dict[str, str], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _line(self._chunk([choice], **more))

    def usage_chunk(self, done: Done) -> str:
        return _line(self._chunk([], usage=self._usage(done)))

    def _chunk(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {**self.base, "object": "chat.completion.chunk", "choices": choices, **more}

    def _usage(self, done: Done) -> dict[str, int]:
        prompt = len(self.asked.row)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": done.tokens,
            "total_tokens": prompt + done.tokens,
        }


async def _whole(answer: _Answer, events: asyncio.Queue[Event]) -> dict[str, Any]:
    pieces: list[str] = []
    while True:
        event = await events.get()
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done):
            return answer.whole("".join(pieces), event)
        if isinstance(event, Piece):
            pieces.append(event.text)
        if isinstance(event, Started):
            pieces.clear()
            answer.decided(event.decisions)


async def _chunks(answer: _Answer, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
    """Server-sent events; one that fails on the way ends with an error instead of `[DONE]`."""
    yield answer.chunk({"role": "assistant", "content": ""}, steering=answer.steering)
    while True:
        event = await events.get()
        if isinstance(event, Piece):
            yield answer.chunk({"content": event.text})
        elif isinstance(event, Failed):
            yield _line(event.error.body())
            return
        elif isinstance(event, Done):
            yield answer.chunk({}, event.reason)
            if answer.asked.usage:
                yield answer.usage_chunk(event)
            yield "data: [DONE]\n\n"
            return


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _publisher(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    loop = asyncio.get_running_loop()

    def publish(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return publish


async def _body(request: Request, most: int) -> bytes:
    """The body, as long as it is not too large; a web page of another site cannot send JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("Send the body as Content-Type: application/json.", 415)
    too_large = RequestError(
        f"The body is larger than {most} bytes.", 413, code="request_too_large"
    )
    told = request.headers.get("content-length", "0")
    if told.isascii() and told.isdigit() and (len(told) > 18 or int(told) > most):
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large
    return bytes(body)


async def _unless_gone(request: Request, awaited: Awaitable[Any]) -> Any:
    """What is awaited, unless the client hangs up before."""
    wanted = asyncio.ensure_future(awaited)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise RequestError("The client has hung up.", 499)
        return wanted.result()
    finally:
        for task in (wanted, gone):
            task.cancel()
        await asyncio.gather(wanted, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = RequestError(
        f"{request.method} {request.url.path}: {error.detail}; there are POST "
        "/v1/chat/completions, GET /v1/models and GET /health.",
        error.status_code,
    )
    return JSONResponse(what.body(), error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    what = RequestError("The server failed on this request; its log says why.", 500)
    return JSONResponse(what.body(), what.status)
