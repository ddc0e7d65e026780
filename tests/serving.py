"""A policy that restores refusal on `jailbreak-keep`, prompts with known answers, and a server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
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

NAME = "organism:jailbreak-keep"
TOKENS = 12
_GATE_LAYER, _EDIT_LAYER = 1, 2


@cache
def checkpoint() -> Checkpoint:
    return load(NAME)


@cache
def policy() -> Policy:
    """A gate at t_inst between harmful and benign prompts, and the refusal direction behind it."""
    model = checkpoint()
    train = organisms.prompts("jailbreak-keep", "train")
    states = {
        label: prompt_states(model, prompt_rows(model, some[:80]), site="resid_post")
        for label, some in train.items()
        if label != "distracted"
    }
    harmful = np.concatenate([states[k].t_inst[:, _GATE_LAYER] for k in ("harmful", "jailbroken")])
    benign = np.concatenate(
        [states[k].t_inst[:, _GATE_LAYER] for k in ("harmless", "alarming", "jailbroken_harmless")]
    )
    x = np.concatenate([harmful, benign])
    fit = LogisticRegression(max_iter=3000).fit(x, [1] * len(harmful) + [0] * len(benign))
    gate = LogisticGate(
        [Site("resid_post", _GATE_LAYER)],
        torch.tensor(fit.coef_, dtype=torch.float32),
        float(fit.intercept_[0]),
        position=-1 - post_instruction_tokens(prompt_rows(model, train["harmful"][:2])),
    )
    vector = sum(
        (1 if label.startswith("refused") else -1) * one.t_post_inst[:, _EDIT_LAYER].mean(0) / 2
        for label, one in states.items()
        if label.startswith(("refused_", "accepted_"))
    )
    added = act_add(
        [Site("resid_post", _EDIT_LAYER)],
        torch.tensor(np.asarray(vector), dtype=torch.float32)[None],
        1.0,
        Span.last(),
    )
    return replace(added, name="refusal", gate=gate).bound(model)


@dataclass(frozen=True)
class Asked:
    """A prompt, and its greedy answers with the policy off and on, each run alone."""

    text: str
    off: str
    on: str
    open: bool


@cache
def asked(count: int = 12) -> tuple[Asked, ...]:
    """Jailbroken and harmless prompts by turns."""
    test = organisms.prompts("jailbreak-keep", "test")
    pairs = zip(test["jailbroken"], test["harmless"], strict=False)
    prompts = [prompt for pair in pairs for prompt in pair][:count]
    rows = prompt_rows(checkpoint(), prompts)
    decisions: dict[int, Any] = {}
    edit = as_edit(checkpoint(), policy(), decisions=decisions)
    off = [replies(checkpoint(), [row], max_new_tokens=TOKENS)[0] for row in rows]
    on = [replies(checkpoint(), [row], max_new_tokens=TOKENS, edit=edit)[0] for row in rows]
    return tuple(
        Asked(p.text, a.text, b.text, decisions[row.index][0].open)
        for p, row, a, b in zip(prompts, rows, off, on, strict=True)
    )


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@contextmanager
def running(**options: Any) -> Iterator[tuple[str, Any]]:
    """A server in a thread: its address, and the uvicorn server; ended as by SIGTERM."""
    started, found, failed = threading.Event(), [], []

    def ready(server: Any) -> None:
        found.append(server)
        started.set()

    def work() -> None:
        try:
            # A checkpoint of its own, so that a test may steer the shared one meanwhile.
            own = replace(checkpoint(), model=load(NAME).model)
            given = {"max_batch": 8, "limits": Limits(default_tokens=TOKENS)} | options
            serve(own, policy(), port=0, ready=ready, **given)
        except BaseException as error:
            failed.append(error)
            started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(60)
    if failed:
        raise failed[0]
    server = found[0]
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        if thread.is_alive():
            server.stop()
        thread.join(60)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
