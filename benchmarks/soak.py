"""A server under everything at once, for minutes: every good request right, and memory flat.

A server process on `organism:chat` under a policy with a gate, and clients over HTTP in this one:
streams and whole answers, policy on and off, one bad request in ten, clients that hang up, and once
a minute the pass with the prompts runs out of memory (raised by a hook in the server's process).
Good answers are compared with those of each prompt run alone without a server.

    python benchmarks/soak.py --out runs/soak.json
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from shared import write
from sklearn.linear_model import LogisticRegression

from interp import organisms
from interp.capture.prompt_states import post_instruction_tokens, prompt_rows, prompt_states
from interp.checkpoint import Checkpoint
from interp.generation import replies
from interp.model.sites import Site
from interp.resolve import load
from steering import act_add
from steering.policy.policy import Policy
from steering.runtime.gates import LogisticGate
from steering.runtime.runtime import as_edit
from steering.runtime.span import Span
from steering.serve.requests import Limits
from steering.serve.server import serve

ROOT = Path(__file__).parents[1]
MODEL = "organism:chat"
TOKENS = 12
GATE_LAYER, EDIT_LAYER = 1, 1
BAD, GONE = 0.1, 0.05  # shares of the requests
INJECTED_S = 60.0
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Asked:
    """A prompt, and its greedy answers with the policy off and on, each run alone."""

    messages: list[Any]
    off: str
    on: str
    open: bool


@dataclass
class Counts:
    """What has happened so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def policy(checkpoint: Checkpoint) -> Policy:
    """Refuses jailbroken prompts again: a gate at t_inst, and the refusal direction behind it."""
    train = organisms.prompts("chat", "train")
    kept = {label: some[:80] for label, some in train.items() if label != "distracted"}
    states = {
        label: prompt_states(checkpoint, prompt_rows(checkpoint, some), site="resid_post")
        for label, some in kept.items()
    }
    harmful = np.concatenate([states[k].t_inst[:, GATE_LAYER] for k in ("harmful", "jailbroken")])
    benign = np.concatenate([states[k].t_inst[:, GATE_LAYER] for k in ("harmless", "alarming")])
    labels = [1] * len(harmful) + [0] * len(benign)
    fit = LogisticRegression(max_iter=3000).fit(np.concatenate([harmful, benign]), labels)
    gate = LogisticGate(
        [Site("resid_post", GATE_LAYER)],
        torch.tensor(fit.coef_, dtype=torch.float32),
        float(fit.intercept_[0]),
        position=-1 - post_instruction_tokens(prompt_rows(checkpoint, train["harmful"][:2])),
    )
    refused, accepted = (
        np.concatenate(
            [
                states[f"{said}_{kind}"].t_post_inst[:, EDIT_LAYER]
                for kind in ("harmful", "harmless")
            ]
        )
        for said in ("refused", "accepted")
    )
    vector = torch.tensor(refused.mean(0) - accepted.mean(0), dtype=torch.float32)[None]
    added = act_add([Site("resid_post", EDIT_LAYER)], vector, 1.0, Span.last())
    return replace(added, name="refusal", gate=gate).bound(checkpoint)


def asked(checkpoint: Checkpoint, steering: Policy) -> list[Asked]:
    """Jailbroken and harmless prompts with what is right."""
    test = organisms.prompts("chat", "test")
    prompts = [*test["jailbroken"][:12], *test["harmless"][:8], *test["alarming"][:4]]
    decisions: dict[int, Any] = {}
    edit = as_edit(checkpoint, steering, decisions=decisions)
    found = []
    for prompt, row in zip(prompts, prompt_rows(checkpoint, prompts), strict=True):
        off, on = (
            replies(checkpoint, [row], max_new_tokens=TOKENS, edit=one)[0].text
            for one in (None, edit)
        )
        found.append(Asked(list(prompt.messages), off, on, decisions[row.index][0].open))
    return found


def bad(text: str) -> list[tuple[bytes, dict[str, str]]]:
    """Bodies and headers that are refused, each for a reason of its own."""
    good = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    changes: list[dict[str, Any]] = [
        {"temperature": 1e-320},
        {"top_p": 0},
        {"max_tokens": 10**400},
        {"seed": 2**70},
        {"steering": 10**400},
        {"model": "gpt-4"},
        {"n": 2},
        {"wings": 1},
        {"stop": [""]},
        {"messages": [{"role": ["user"], "content": text}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": f"{text} " * 2000}]},
    ]
    bodies: list[tuple[bytes, dict[str, str]]] = [
        (json.dumps(good | change).encode(), {}) for change in changes
    ]
    raw = json.dumps(good).encode()
    bodies += [(raw[:-1], {}), (b"[" * 50_000, {}), (b'{"temperature": NaN}', {})]
    bodies += [(raw, {"x-mechguard-strength": "nan"}), (raw, {"content-type": "text/plain"})]
    bodies += [(raw, {"host": "evil.example"}), (raw, {"origin": "https://evil.example"})]
    return bodies


async def good_request(client: httpx.AsyncClient, one: Asked, off: bool, stream: bool) -> str:
    """The outcome: `right`, a wrong answer, or the status or error that came instead."""
    body = {
        "model": MODEL,
        "messages": one.messages,
        "stream": stream,
        "max_tokens": TOKENS,
        "steering": "off" if off else 1.0,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    if stream:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        parts = [json.loads(event) for event in events if event != "[DONE]"]
        if any("error" in part for part in parts):
            return "stream ended with an error"
        if events[-1] != "[DONE]":
            return "stream without end"
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        decided = parts[0]["steering"]
    else:
        content = answer.json()
        text, decided = content["choices"][0]["message"]["content"], content["steering"]
    right = text == (one.off if off else one.on)
    return "right" if right and decided[0]["open"] == (one.open and not off) else "wrong"


async def hang_up(client: httpx.AsyncClient, one: Asked, stream: bool) -> None:
    """Leave before the answer is whole."""
    body = {"model": MODEL, "messages": one.messages, "stream": stream}
    if stream:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                return
    with suppress(httpx.TimeoutException):
        await client.post("/v1/chat/completions", json=body, timeout=0.02)


async def client_of(
    url: str, number: int, prompts: list[Asked], until: float, counts: Counts
) -> None:
    """One client, which asks one request after the other."""
    draw = random.Random(number)
    odd = bad(prompts[0].messages[-1]["content"])
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        while time.monotonic() < until:
            one, chance = draw.choice(prompts), draw.random()
            stream, off = draw.random() < 0.5, draw.random() < 1 / 3
            if chance < BAD:
                body, headers = draw.choice(odd)
                headers = {"content-type": "application/json"} | headers
                answer = await client.post("/v1/chat/completions", content=body, headers=headers)
                told = 400 <= answer.status_code < 500 and "message" in answer.json()["error"]
                counts.outcomes["bad refused" if told else "bad not refused"] += 1
            elif chance < BAD + GONE:
                await hang_up(client, one, stream)
                counts.outcomes["hung up"] += 1
            else:
                begin = time.perf_counter()
                outcome = await good_request(client, one, off, stream)
                counts.seconds.append(time.perf_counter() - begin)
                counts.outcomes[outcome] += 1
                if outcome != "right":
                    counts.wrong.append(f"{outcome}: {one.messages} (off: {off}, stream: {stream})")


async def soak(process: psutil.Process, url: str, prompts: list[Asked], options: Any) -> Any:
    """All clients, an injected failure a minute, and the server's memory second by second."""
    counts, memory, injected = Counts(), [], 0
    begin = time.monotonic()
    until = begin + options.minutes * 60
    clients = [
        asyncio.create_task(client_of(url, number, prompts, until, counts))
        for number in range(options.clients)
    ]
    while time.monotonic() < until:
        if time.monotonic() - begin > INJECTED_S * (injected + 0.5):
            process.send_signal(signal.SIGUSR1)
            injected += 1
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(1)
    await asyncio.gather(*clients)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        health = (await client.get("/health")).json()
    return counts, memory, injected, health


def result_of(counts: Counts, memory: list[float], injected: int, options: Any) -> dict[str, Any]:
    """The figures, JSON-ready."""
    cuts = statistics.quantiles(counts.seconds, n=100)
    settled = len(memory) // 10  # caches fill up in the first tenth
    return {
        "minutes": options.minutes,
        "clients": options.clients,
        "max_batch": options.max_batch,
        "cores": os.cpu_count(),
        "good_requests": len(counts.seconds),
        "outcomes": dict(sorted(counts.outcomes.items())),
        "injected_out_of_memory": injected,
        "p50_s": round(cuts[49], 3),
        "p99_s": round(cuts[98], 3),
        "resident_mib": {
            "begin": round(memory[0], 1),
            "after_a_tenth": round(memory[settled], 1),
            "middle": round(memory[len(memory) // 2], 1),
            "end": round(memory[-1], 1),
            "most": round(max(memory), 1),
        },
        "not_right": counts.wrong[:20],
    }


def server(folder: Path, max_batch: int) -> None:
    """The server's process: SIGUSR1 lets the next pass with prompts run out of memory."""
    checkpoint = load(MODEL)
    due: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: due.append(1))

    def look(module: Any, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if due and states.shape[1] > 1:
            due.clear()
            print(f"injected into a batch of {len(states)}", flush=True)
            raise torch.OutOfMemoryError("injected by the benchmark")

    checkpoint.layers[1].register_forward_hook(look)
    serve(
        checkpoint,
        Policy.load(folder, checkpoint),
        port=0,
        max_batch=max_batch,
        limits=Limits(default_tokens=TOKENS),
        ready=lambda one: print(one.servers[0].sockets[0].getsockname()[1], flush=True),
    )


def main() -> None:
    """Start a server, run the clients, end it by SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        server(options.serve, options.max_batch)
        return
    if options.out is None:
        parser.error("name a file with --out")
    checkpoint = load(MODEL)
    steering = policy(checkpoint)
    prompts = asked(checkpoint, steering)
    if not any(one.on != one.off for one in prompts) or all(one.open for one in prompts):
        sys.exit("the policy or its gate does nothing, so the benchmark would test nothing")
    with tempfile.TemporaryDirectory() as folder:
        steering.save(Path(folder))
        given = ["--serve", folder, "--max-batch", str(options.max_batch)]
        command = [sys.executable, str(Path(__file__)), *given]
        log = Path(folder) / "output.txt"
        # A model as small as this one is slowed down by threads that wait for each other.
        own = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (
            log.open("w") as output,
            subprocess.Popen(command, cwd=ROOT, stdout=output, env=own) as process,
        ):
            try:
                port = _port(process, log)
                url = f"http://127.0.0.1:{port}"
                found = asyncio.run(soak(psutil.Process(process.pid), url, prompts, options))
                counts, memory, injected, health = found
                process.send_signal(signal.SIGTERM)
                status = process.wait(60)
            finally:
                process.kill()
        batches = [int(size) for size in re.findall(r"batch of (\d+)", log.read_text())]
    result = result_of(counts, memory, injected, options)
    result |= {"injected_into_batches_of": batches, "health": health, "exit_status": status}
    write(options.out, json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    # Only a request that was alone in its batch may be told that it does not fit.
    outcomes = counts.outcomes
    told = outcomes["status 503"]
    others = set(outcomes) - {"right", "status 503", "bad refused", "hung up"}
    if others or told > batches.count(1) or status != 0 or health["status"] != "ok":
        sys.exit("an answer was wrong, or the server did not hold")


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Where the server listens, once it does."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        lines = log.read_text().splitlines()
        if lines:
            return int(lines[0])
        time.sleep(0.1)
    sys.exit("the server did not start")


if __name__ == "__main__":
    main()
