"""A bounded queue, and a thread that answers what waits in it, a batch at a time.

One `generate` runs a batch of requests with strengths, lengths and sampling of their own. A batch
is not joined while it runs: what arrives meanwhile waits for the next one. A row that has ended, or
whose client is gone, says nothing any more, and a batch ends with its last live row.

A batch that fails is tried again, in halves where memory ran out and else one by one, so that no
request fails with another. What was streamed in part already cannot be, and is told an error.
"""

import copy
import gc
import logging
import threading
import time
from collections import deque
from typing import Any

import torch
from transformers import GenerationConfig

from interp.data.padding import ends, padded
from interp.errors import InputError, MechguardError, is_out_of_memory
from steering.runtime.attachment import Attachment
from steering.serve.errors import RequestError
from steering.serve.jobs import Failed, Job
from steering.serve.rows import Answer, Choice, Feed

_log = logging.getLogger("mechguard")
_GATHER_S = 0.005  # so that requests which come together run together


class Batcher:
    """Answers requests on an attached model.

    Attributes:
        answered: requests that were answered whole.
        batches: that were run.
    """

    def __init__(self, attachment: Attachment, *, max_batch: int = 16, max_queue: int = 64) -> None:
        if max_batch < 1 or max_queue < 1:
            raise InputError("a server needs room for one request in a batch and in the queue.")
        self.attachment, self.checkpoint = attachment, attachment.checkpoint
        self.max_batch, self.max_queue = max_batch, max_queue
        self.answered = self.batches = 0
        # A tokenizer may not encode in one thread and decode in another.
        self._tokenizer: Any = copy.deepcopy(self.checkpoint.tokenizer)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._draining = self._closed = False
        self._thread = threading.Thread(target=self._work, name="mechguard-batcher", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a request.

        Raises:
            RequestError: the queue is full (429), or the server shuts down (503).
        """
        with self._changed:
            if self._draining:
                raise _shutting_down()
            if sum(job.live for job in self._waiting) >= self.max_queue:
                raise RequestError(
                    f"The queue is full ({self.max_queue} requests wait); try again later.",
                    429,
                    code="queue_full",
                )
            self._waiting.append(job)
            self._changed.notify_all()

    def load(self) -> tuple[int, int]:
        """Requests that wait, and that are being answered."""
        with self._changed:
            waiting, running = list(self._waiting), list(self._running)
        return sum(job.live for job in waiting), sum(job.live for job in running)

    @property
    def draining(self) -> bool:
        """Whether no more requests are taken."""
        return self._draining

    def wait(self, timeout: float) -> bool:
        """Until nothing waits or runs, or for so many seconds; whether nothing does."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._running), timeout)

    def drain(self) -> None:
        """Take no more requests, and answer those that are here."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Tell everybody who still waits that there will be no answer."""
        self.drain()
        with self._changed:
            left = [*self._waiting, *self._running]
            self._waiting.clear()
        for job in left:
            job.finish(Failed(_shutting_down()))

    def close(self) -> None:
        """Stop the thread; what is not answered yet is told so."""
        self.abort()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            waiting = [batch]
            while waiting:
                waiting[:0] = self._attempt(waiting.pop(0))
            with self._changed:
                self._running = []
                self._changed.notify_all()

    def _attempt(self, batch: list[Job]) -> list[list[Job]]:
        """Answer a batch; returns what is to be tried again of one that failed, in smaller ones."""
        batch = [job for job in batch if job.live]
        if not batch:
            return []
        try:
            self._answer(batch)
            return []
        except BaseException as error:
            # Whatever happens to one batch, its clients are told, and the next one is run.
            _log.exception("a batch of %d requests failed", len(batch))
            out_of_memory, failure = is_out_of_memory(error), _failure(error)
        if out_of_memory:
            _free_memory()
        left = [job for job in batch if job.live]
        for job in left:
            if len(batch) == 1 or job.begun:
                job.finish(Failed(failure))
        again = [job for job in left if job.live]
        if out_of_memory:
            middle = (len(again) + 1) // 2
            return [half for half in (again[:middle], again[middle:]) if half]
        return [[job] for job in again]

    def _next(self) -> list[Job]:
        """The requests of the next batch; none once the batcher is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
        time.sleep(_GATHER_S)
        with self._changed:
            batch: list[Job] = []
            later: list[Job] = []
            while self._waiting and len(batch) < self.max_batch:
                job = self._waiting.popleft()
                if job.live:
                    (batch if self._fits([*batch, job]) else later).append(job)
            self._waiting.extendleft(reversed(later))
            self._running = batch
            closed = self._closed
        return batch if batch or closed else self._next()

    def _fits(self, batch: list[Job]) -> bool:
        """Whether no row of a batch comes to a position that the model has not learned.

        A row that has ended goes on as padding beside the others, and its positions with it; rotary
        ones have no end.
        """
        anatomy, requests = self.checkpoint.anatomy, [job.request for job in batch]
        if anatomy.rotary or anatomy.context is None:
            return True
        longest = max(len(request.row) for request in requests)
        return longest + max(request.max_tokens for request in requests) <= anatomy.context

    @torch.inference_mode()
    def _answer(self, batch: list[Job]) -> None:
        model: Any = self.checkpoint.model
        stops = ends(self.checkpoint)
        rows = [Answer(job, self._tokenizer, stops) for job in batch]
        self.batches += 1
        self.attachment.strength = [job.request.strength for job in batch]
        inputs = padded([job.request.row for job in batch], self.checkpoint, "left")
        most = max(job.request.max_tokens for job in batch)
        try:
            model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                logits_processor=[Choice(rows)],
                stopping_criteria=[Feed(rows, self.attachment)],
                generation_config=GenerationConfig(
                    max_new_tokens=most,
                    do_sample=False,
                    bos_token_id=getattr(self.checkpoint.tokenizer, "bos_token_id", None),
                    pad_token_id=self._pad(stops),
                    eos_token_id=stops or None,
                ),
            )
        finally:
            self.answered += sum(row.whole for row in rows)

    def _pad(self, stops: list[int]) -> int:
        pad = getattr(self.checkpoint.tokenizer, "pad_token_id", None)
        return int(pad) if pad is not None else next(iter(stops), 0)


def _failure(error: BaseException) -> RequestError:
    if is_out_of_memory(error):
        return RequestError("The request did not fit into memory; try again later.", 503)
    if isinstance(error, MechguardError):
        return RequestError(str(error), 500)
    return RequestError("The server failed on this request; its log says why.", 500)


def _free_memory() -> None:
    """Give back what a failed batch held, before a smaller one is tried."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _shutting_down() -> RequestError:
    return RequestError("The server is shutting down.", 503, code="shutting_down")
