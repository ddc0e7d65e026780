"""The batcher by itself: freed rows, failing batches, mixed sampling, and no leak of hooks."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from serving import asked, checkpoint, hooks, policy

from interp.data.padding import padded
from interp.data.segments import chat_row
from steering.runtime.runtime import apply
from steering.serve.batcher import Batcher
from steering.serve.errors import RequestError
from steering.serve.jobs import Done, Event, Failed, Job, Piece, Started
from steering.serve.requests import ChatRequest
from steering.serve.rows import sampled
from steering.serve.text import Speech


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


def test_no_temperature_makes_a_draw_impossible() -> None:
    scores = torch.tensor([1e30, 3.0, -1e30, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    for temperature in (5e-324, 1e-320, 1e-6, 2.0):
        assert sampled(scores, temperature, 1.0, generator) == 0


@contextmanager
def answering(**options: Any) -> Iterator[Batcher]:
    with apply(checkpoint(), policy()) as attachment:
        batcher = Batcher(attachment, **options)
        try:
            yield batcher
        finally:
            if batcher._thread.is_alive():
                batcher.close()


@contextmanager
def failing(error: Callable[[int], BaseException | None]) -> Iterator[list[int]]:
    """A pass with prompts fails in the middle, as `error` says of its number of rows."""
    sizes: list[int] = []

    def look(module: Any, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if states.shape[1] > 1:
            sizes.append(len(states))
            if (raised := error(len(states))) is not None:
                raise raised

    handle = checkpoint().layers[2].register_forward_hook(look)
    try:
        yield sizes
    finally:
        handle.remove()


def test_a_batch_that_is_out_of_memory_is_tried_in_halves() -> None:
    def too_many(rows: int) -> BaseException | None:
        return torch.OutOfMemoryError("x") if rows > 2 else None

    with answering() as batcher, failing(too_many) as sizes:
        listeners = [Listener(request(index)) for index in range(7)]
        for one in listeners:
            batcher.submit(one.job)
        batcher.start()
        assert all(one.over.wait(60) for one in listeners)
        assert [one.text for one in listeners] == [asked()[i].on for i in range(7)]
        assert batcher.wait(10) and batcher.answered == 7
        assert sizes == [7, 4, 2, 2, 3, 2, 1]


def test_a_request_that_does_not_fit_alone_is_told_503() -> None:
    def all_of_them(rows: int) -> BaseException:
        return torch.OutOfMemoryError("x")

    with answering() as batcher:
        with failing(all_of_them):
            listeners = [Listener(request(index)) for index in range(3)]
            for one in listeners:
                batcher.submit(one.job)
            batcher.start()
            assert all(one.over.wait(60) for one in listeners)
        for one in listeners:
            (event,) = one.events
            assert isinstance(event, Failed) and event.error.status == 503
        assert run(batcher, request(0))[0].text == asked()[0].on


def test_only_the_guilty_request_fails_and_the_others_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guilty = request(2).row.ids

    def prepare(rows: Any, *given: Any) -> Any:
        if any(row.ids == guilty for row in rows):
            raise SystemExit("not even this ends the thread")
        return padded(rows, *given)

    monkeypatch.setattr("steering.serve.batcher.padded", prepare)
    with answering() as batcher:
        listeners = [Listener(request(index, stream=bool(index % 2))) for index in range(5)]
        for one in listeners:
            batcher.submit(one.job)
        batcher.start()
        assert all(one.over.wait(60) for one in listeners)
        for index, one in enumerate(listeners):
            if index == 2:
                (event,) = one.events
                assert isinstance(event, Failed) and event.error.status == 500
            else:
                assert one.text == asked()[index].on and isinstance(one.events[-1], Done)


def test_a_stream_that_has_begun_is_told_and_a_whole_answer_begins_again() -> None:
    calls: list[int] = []

    def once(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:  # the prompt, and two new tokens
            raise torch.OutOfMemoryError("x")

    handle = checkpoint().layers[2].register_forward_hook(once)
    try:
        with answering() as batcher:
            listeners = [Listener(request(1, stream=stream)) for stream in (True, False)]
            for one in listeners:
                batcher.submit(one.job)
            batcher.start()
            assert all(one.over.wait(60) for one in listeners)
    finally:
        handle.remove()
    stream, whole = (one.events for one in listeners)
    assert isinstance(stream[-1], Failed) and stream[-1].error.status == 503
    assert any(isinstance(event, Piece) for event in stream)
    again = [number for number, event in enumerate(whole) if isinstance(event, Started)]
    assert len(again) == 2 and isinstance(whole[-1], Done)
    text = "".join(event.text for event in whole[again[1] :] if isinstance(event, Piece))
    assert text == asked()[1].on


def test_what_a_row_does_fails_that_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling, decoding, and telling the client."""

    def sample(scores: Any, temperature: float, *rest: Any) -> int:
        raise ValueError("secret")

    class Mute(Speech):
        def add(self, token: int) -> str:
            if "mute" in self._stop:
                raise TypeError("secret")
            return super().add(token)

    monkeypatch.setattr("steering.serve.rows.sampled", sample)
    monkeypatch.setattr("steering.serve.rows.Speech", Mute)
    with answering() as batcher:
        drawn, mute = Listener(request(0, temperature=1.0)), Listener(request(1, stop=("mute",)))
        deaf, good = Listener(request(2)), Listener(request(3))

        def refuse(event: Event) -> None:
            raise RuntimeError("the loop is closed")

        monkeypatch.setattr(deaf.job, "_publish", refuse)
        for one in (drawn, mute, deaf, good):
            batcher.submit(one.job)
        batcher.start()
        assert good.over.wait(60) and drawn.over.wait(60) and mute.over.wait(60)
        assert good.text == asked()[3].on and batcher.batches == 1
        assert not deaf.job.live and not deaf.events
    for one in (drawn, mute):
        last = one.events[-1]
        assert isinstance(last, Failed) and last.error.status == 500
        assert "secret" not in str(last.error)


def test_a_gate_that_reads_nan_in_one_row_fails_that_row_alone() -> None:
    """Also where its logits are numbers, as here those of all new tokens."""
    guilty = torch.tensor(request(2).row.ids)
    embedding = checkpoint().embedding

    def spoil(module: Any, args: Any, output: Any) -> Any:
        ids = args[0]
        if ids.shape[1] < len(guilty):
            return None
        rows = (ids[:, -len(guilty) :] == guilty).all(-1)
        if not bool(rows.any()):
            return None
        output = output.clone()
        output[rows] = torch.nan
        return output

    handle = embedding.register_forward_hook(spoil)
    try:
        with answering() as batcher:
            listeners = [Listener(request(index)) for index in range(4)]
            for one in listeners:
                batcher.submit(one.job)
            batcher.start()
            assert all(one.over.wait(60) for one in listeners)
    finally:
        handle.remove()
    for index, one in enumerate(listeners):
        if index == 2:
            last = one.events[-1]
            assert isinstance(last, Failed) and last.error.status == 500
        else:
            assert one.text == asked()[index].on and isinstance(one.events[-1], Done)


def test_learned_positions_are_never_left() -> None:
    """A row that has ended goes on as padding, to the end of the longest answer."""
    rows = sorted((request(index) for index in range(12)), key=lambda one: len(one.row))
    short, long = rows[0], rows[-1]
    context = checkpoint().anatomy.context
    assert context is not None and len(short.row) < len(long.row)
    talks = replace(short, max_tokens=context - len(short.row))
    with apply(checkpoint(), policy()) as attachment:
        batcher = Batcher(attachment)
        for rotary, sizes in ((True, [3]), (False, [2, 1])):
            anatomy = replace(checkpoint().anatomy, rotary=rotary)
            batcher.checkpoint = replace(checkpoint(), anatomy=anatomy)
            for one in (talks, long, short):
                batcher.submit(Listener(one).job)
            assert [len(batcher._next()) for _ in sizes] == sizes
        assert batcher.load()[0] == 0
