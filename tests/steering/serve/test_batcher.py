"""The batcher by itself: freed rows, failing batches, mixed sampling, and no leak of hooks."""

import threading
import time
from typing import Any

import pytest
import torch
from serving import asked, checkpoint, hooks, policy

from interp.data.segments import chat_row
from steering.runtime.runtime import apply
from steering.serve.batcher import Batcher
from steering.serve.errors import RequestError
from steering.serve.jobs import Done, Event, Failed, Job, Piece, Started
from steering.serve.requests import ChatRequest
from steering.serve.rows import sampled


@pytest.fixture(autouse=True)
def answers() -> None:
    """What is right is worked out before the model is steered."""
    asked()


class Listener:
    """Collects what happens to a job."""

    def __init__(self, request: ChatRequest) -> None:
        self.events: list[Event] = []
        self.over = threading.Event()
        self.cancels = False
        self.job = Job(request, self._take)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if self.cancels and isinstance(event, Piece):
            self.job.cancel()
        if isinstance(event, (Done, Failed)):
            self.over.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def request(index: int, **options: Any) -> ChatRequest:
    row = chat_row(checkpoint(), [{"role": "user", "content": asked()[index].text}])
    return ChatRequest(row, **({"max_tokens": 12} | options))


def run(batcher: Batcher, *requests: ChatRequest) -> list[Listener]:
    listeners = [Listener(one) for one in requests]
    for one in listeners:
        batcher.submit(one.job)
    assert all(one.over.wait(60) for one in listeners)
    return listeners


def test_one_batch_mixes_strengths_and_sampling_and_leaves_no_hook() -> None:
    before = hooks(checkpoint().model)
    with apply(checkpoint(), policy()) as attachment:
        attached = hooks(checkpoint().model)
        batcher = Batcher(attachment)
        batcher.start()
        hot = {"temperature": 2.0, "seed": 7}
        for _ in range(3):
            # Queued together, so that they make one batch.
            mixed = run(
                batcher,
                request(0),
                request(0, strength=0.0),
                request(1),
                request(2, **hot),
            )
            (alone,) = run(batcher, request(2, **hot))
            wanted = [asked()[0].on, asked()[0].off, asked()[1].on, alone.text]
            assert [one.text for one in mixed] == wanted
            assert isinstance(mixed[0].events[0], Started)
            assert hooks(checkpoint().model) == attached
        batcher.close()
        assert batcher.answered == 15 and batcher.batches < 15
    assert hooks(checkpoint().model) == before


def test_a_row_whose_client_is_gone_ends_its_batch() -> None:
    passes = []
    model = checkpoint().model
    count = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        with apply(checkpoint(), policy()) as attachment:
            batcher = Batcher(attachment)
            batcher.start()
            (whole,) = run(batcher, request(1))
            full = len(passes)
            passes.clear()
            gone = Listener(request(1))
            gone.cancels = True
            batcher.submit(gone.job)
            end = time.monotonic() + 30
            while batcher.load() != (0, 0) or not gone.events:
                assert time.monotonic() < end
                time.sleep(0.01)
            batcher.close()
    finally:
        count.remove()
    assert len(passes) <= 2 < full
    assert not any(isinstance(event, Done) for event in gone.events)
    assert whole.text == asked()[1].on and not gone.over.is_set()


def test_a_batch_that_fails_tells_its_clients_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with apply(checkpoint(), policy()) as attachment:
        batcher = Batcher(attachment, max_queue=2)
        model: Any = checkpoint().model
        right = model.generate
        for error, status in ((torch.OutOfMemoryError("x"), 503), (ValueError("secret"), 500)):

            def fail(*_: Any, error: Exception = error, **__: Any) -> None:
                raise error

            model.generate = fail
            if not batcher._thread.is_alive():
                batcher.start()
            (one,) = run(batcher, request(0))
            (failed,) = one.events
            assert isinstance(failed, Failed) and failed.error.status == status
            assert "secret" not in str(failed.error)
        model.generate = right
        assert run(batcher, request(0))[0].text == asked()[0].on
        batcher.close()
        with pytest.raises(RequestError, match="shutting down"):
            batcher.submit(Listener(request(0)).job)


def test_nan_in_the_logits_is_told_and_not_answered() -> None:
    spoil = (
        checkpoint()
        .model.get_output_embeddings()
        .register_forward_hook(lambda module, args, out: out * torch.nan)
    )
    try:
        with apply(checkpoint(), policy()) as attachment:
            batcher = Batcher(attachment)
            batcher.start()
            (one,) = run(batcher, request(0))
            batcher.close()
    finally:
        spoil.remove()
    assert isinstance(one.events[-1], Failed) and "NaN" in str(one.events[-1].error)
    assert one.text == ""


def test_what_waits_is_told_when_it_ends() -> None:
    with apply(checkpoint(), policy()) as attachment:
        batcher = Batcher(attachment, max_queue=2)
        waiting = [Listener(request(0)), Listener(request(1))]
        for one in waiting:
            batcher.submit(one.job)
        with pytest.raises(RequestError, match="queue is full") as full:
            batcher.submit(Listener(request(0)).job)
        assert full.value.status == 429
        waiting[0].job.cancel()  # frees its place
        batcher.submit(Listener(request(0)).job)
        batcher.abort()
        (event,) = waiting[1].events
        assert isinstance(event, Failed) and event.error.status == 503
        assert not waiting[0].events


def test_nucleus_sampling() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = [sampled(scores, 1.0, 1.0, generator) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
    assert torch.allclose(shares, scores.exp(), atol=0.03)
    assert {sampled(scores, 1.0, 0.7, generator) for _ in range(200)} == {0, 1}
    assert {sampled(scores, 1.0, 0.0, generator) for _ in range(50)} == {0}
