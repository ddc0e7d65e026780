"""A real server and the official client: right answers, refusals, hang-ups, and the end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import NAME, Asked, asked, checkpoint, hooks, policy, running

from interp.errors import InputError
from steering.runtime.attachment import is_steered
from steering.serve.requests import Limits
from steering.serve.server import serve


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Any]]:
    with running() as found:
        yield found


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def conversation(one: Asked) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": one.text}]}


def ask(api: openai.OpenAI, one: Asked, steering: Any, stream: bool) -> tuple[str, Any]:
    """The answer, and the decisions."""
    given = {**conversation(one), "extra_body": {"steering": steering}}
    if not stream:
        answer = api.chat.completions.create(**given)
        return answer.choices[0].message.content or "", answer.to_dict()["steering"]
    pieces, decisions = [], None
    for chunk in api.chat.completions.create(**given, stream=True):
        decisions = decisions or chunk.to_dict().get("steering")
        pieces.append(chunk.choices[0].delta.content or "")
    return "".join(pieces), decisions


def test_the_prompts_tell_steering_from_none() -> None:
    by_gate = {one.open: one for one in asked()}
    assert by_gate[True].on != by_gate[True].off
    assert by_gate[False].on == by_gate[False].off


def test_many_at_once_half_of_them_off_are_answered_right(served: tuple[str, Any]) -> None:
    api = client(served[0])
    jobs = [
        (one, steering, stream)
        for one in asked()
        for steering in (1.0, "off")
        for stream in (True, False)
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: ask(api, *job), jobs))
    assert len(jobs) >= 40
    for (one, steering, stream), (text, decisions) in zip(jobs, answers, strict=True):
        assert text == (one.off if steering == "off" else one.on), (one, steering, stream)
        (decision,) = decisions
        assert decision["open"] == (one.open and steering != "off")
        assert decision["policy"] == "refusal" and isinstance(decision["score"], float)


def test_decisions_stand_in_the_headers_of_streams_too(served: tuple[str, Any]) -> None:
    body = conversation(asked()[0])
    for stream in (False, True):
        answer = httpx.post(
            f"{served[0]}/v1/chat/completions",
            json={**body, "stream": stream},
            headers={"X-Mechguard-Strength": "0.5"},
            timeout=60,
        )
        assert answer.status_code == 200
        assert answer.headers["x-mechguard-decision"] == "open"
        assert answer.headers["x-mechguard-strength"] == "0.5"
        (decision,) = json.loads(answer.headers["x-mechguard-decisions"])
        assert decision["scale"] == 0.5
    assert answer.text.endswith("data: [DONE]\n\n")


def test_models_and_usage(served: tuple[str, Any]) -> None:
    api = client(served[0])
    (model,) = api.models.list().data
    assert model.id == NAME and model.to_dict()["steering"][0]["name"] == "refusal"  # type: ignore[index]
    one = asked()[0]
    answer = api.chat.completions.create(**conversation(one), max_tokens=2)
    assert answer.choices[0].finish_reason == "length" and answer.usage
    assert answer.usage.completion_tokens == 2
    *_, last = api.chat.completions.create(
        **conversation(one), stream=True, stream_options={"include_usage": True}
    )
    assert last.usage and last.choices == []
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens


def test_stop_strings_and_seeds(served: tuple[str, Any]) -> None:
    api, one = client(served[0]), asked()[1]
    words = one.on.split()
    stopped = api.chat.completions.create(**conversation(one), stop=[f" {words[2]}"])
    assert stopped.choices[0].message.content == one.on[: one.on.index(f" {words[2]}")]
    assert stopped.choices[0].finish_reason == "stop"
    hot: dict[str, Any] = {**conversation(one), "temperature": 2.0, "max_tokens": 12}
    drawn = [
        api.chat.completions.create(**hot, seed=seed).choices[0].message.content
        for seed in (3, 3, 4, 5)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "does not exist"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        (
            {"messages": [{"role": "user", "content": "wipe zzzz"}]},
            openai.BadRequestError,
            "encode",
        ),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"n": 3}, openai.BadRequestError, "n is supported only as 1"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 1000}, openai.BadRequestError, "holds 128 in all"),
        ({"extra_body": {"steering": 99}}, openai.BadRequestError, "from -4 to 4"),
        ({"extra_body": {"steering": True}}, openai.BadRequestError, "steering"),
        ({"extra_body": {"wings": 2}}, openai.BadRequestError, "wings is not supported"),
    ],
)
def test_bad_requests(served: tuple[str, Any], change: Any, error: Any, words: str) -> None:
    given = conversation(asked()[0]) | change
    with pytest.raises(error, match=words):
        client(served[0]).chat.completions.create(**given)


def test_bodies_that_are_no_request(served: tuple[str, Any]) -> None:
    url, kind = f"{served[0]}/v1/chat/completions", {"content-type": "application/json"}
    long = json.dumps({**conversation(asked()[0]), "user": "x" * 1_000_001})
    cases: list[tuple[Any, dict[str, str], int]] = [
        ("{", kind, 400),
        ("[1]", kind, 400),
        (long, kind, 413),
        ((part.encode() for part in (long[:9], long[9:])), kind, 413),
        ("{}", {"content-type": "text/plain"}, 415),
    ]
    for content, headers, status in cases:
        answer = httpx.post(url, content=content, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{served[0]}/nowhere").json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_row(stream: bool) -> None:
    one = max(asked(), key=lambda each: len(each.off.split()))
    tokens = len(one.off.split())
    with running(max_batch=1) as (url, server):
        batcher = server.config.app.state.batcher
        passes: list[int] = []

        def slow(*_: Any) -> None:
            passes.append(1)
            time.sleep(0.25)

        hook = batcher.checkpoint.model.register_forward_hook(slow)
        body = {**conversation(one), "stream": stream, "steering": "off"}
        endpoint = f"{url}/v1/chat/completions"
        if stream:
            with httpx.stream("POST", endpoint, json=body, timeout=60) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(endpoint, json=body, timeout=0.6)
        _until(lambda: batcher.load() == (0, 0))
        hook.remove()
        assert ask(client(url), asked()[0], 1.0, False)[0] == asked()[0].on
        _until(lambda: batcher.answered == 1)  # and not the one that was left
        assert 0 < len(passes) < tokens


def test_a_full_queue_says_so() -> None:
    with running(max_batch=1, max_queue=1) as (url, _):

        def one(_: int) -> int:
            return httpx.post(
                f"{url}/v1/chat/completions", json=conversation(asked()[0]), timeout=60
            ).status_code

        with ThreadPoolExecutor(16) as pool:
            statuses = set(pool.map(one, range(16)))
        assert statuses == {200, 429}
        assert one(0) == 200


def test_a_locked_server_keeps_its_strength() -> None:
    with running(limits=Limits(default_tokens=12, locked=True)) as (url, _):
        with pytest.raises(openai.PermissionDeniedError, match="does not let"):
            ask(client(url), asked()[0], "off", False)
        answer = client(url).chat.completions.create(**conversation(asked()[0]))
        assert answer.choices[0].message.content == asked()[0].on


def test_what_cannot_be_served_is_refused(served: tuple[str, Any]) -> None:
    port = int(served[0].rsplit(":", 1)[1])
    before = hooks(checkpoint().model)
    with pytest.raises(InputError, match="--port"):
        serve(checkpoint(), policy(), port=port)
    assert hooks(checkpoint().model) == before and not is_steered(checkpoint().model)


_RUN = "import typer; from analyses.cli.artefacts.serve import serve; typer.run(serve)"


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing_silently(tmp_path: Path) -> None:
    policy().save(tmp_path)
    command = [sys.executable, "-c", _RUN, NAME, "--policy", str(tmp_path)]
    options = ["--port", "0", "--max-batch", "4", "--max-queue", "200", "--grace", "60"]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *options], cwd=root, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[^/]+", process.stdout.readline())
            assert found is not None
            api, jobs = client(found[0]), [asked()[i % len(asked())] for i in range(40)]
            sent = threading.Semaphore(0)

            def one(number: int) -> str:
                sent.release()
                try:
                    return ask(api, jobs[number], 1.0, number % 2 == 0)[0]
                except openai.APIStatusError as error:
                    assert error.status_code == 503  # told
                    return ""

            with ThreadPoolExecutor(40) as pool:
                answers = pool.map(one, range(40))
                for _ in range(40):
                    sent.acquire()
                _until(lambda: httpx.get(f"{found[0]}/v1/models", timeout=30).status_code == 200)
                process.send_signal(signal.SIGTERM)
                said = list(answers)
            wrong = [s for s, job in zip(said, jobs, strict=True) if s not in (job.on, "")]
            assert not wrong
            assert sum(bool(s) for s in said) >= 4  # what ran was answered
            assert process.wait(60) == 0
        finally:
            process.kill()


def _until(true: Any) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
