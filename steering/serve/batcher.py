"""A bounded queue, and a thread that answers what waits in it, a batch at a time.

One `generate` runs a batch of requests with strengths, lengths and sampling of their own. A batch
is not joined while it runs: what arrives meanwhile waits for the next one. A row that has ended, or
whose client is gone, says nothing any more, and a batch ends with its last live row.
"""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from interp.data.padding import ends, padded
from interp.errors import InputError, MechguardError, is_out_of_memory
from steering.runtime.attachment import Attachment
from steering.runtime.decisions import Decision
from steering.serve.requests import ChatRequest, RequestError
from steering.serve.text import Speech

_log = logging.getLogger("mechguard")
_GATHER_S = 0.005  # so that requests which come together run together


@dataclass(frozen=True)
class Started:
    """The prompt was read and the gates have decided."""

    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Piece:
    """Some text of the answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is whole: `stop` or `length`, and how many tokens it took."""

    reason: str
    tokens: int


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    error: RequestError


Event = Started | Piece | Done | Failed


class Job:
    """A request under way; what happens to it is told to `publish`, from the batcher's thread."""

    def __init__(self, request: ChatRequest, publish: Callable[[Event], None]) -> None:
        self.request, self.publish = request, publish
        self.over = False
        self._gone = False

    def cancel(self) -> None:
        """Nobody listens any more."""
        self._gone = True

    @property
    def live(self) -> bool:
        """Whether somebody waits for more."""
        return not (self.over or self._gone)

    def finish(self, event: Done | Failed) -> None:
        """Tell the end, once."""
        if self.live:
            self.over = True
            self.publish(event)


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
            try:
                self._answer(batch)
            except Exception as error:
                # Whatever happens to one batch, its clients are told, and the next one is run.
                _log.exception("a batch of %d requests failed", len(batch))
                for job in batch:
                    job.finish(Failed(_failure(error)))
            finally:
                with self._changed:
                    self._running = []

    def _next(self) -> list[Job]:
        """The requests of the next batch; none once the batcher is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
        time.sleep(_GATHER_S)
        with self._changed:
            batch: list[Job] = []
            while self._waiting and len(batch) < self.max_batch:
                job = self._waiting.popleft()
                if job.live:
                    batch.append(job)
            self._running = batch
            closed = self._closed
        return batch if batch or closed else self._next()

    @torch.inference_mode()
    def _answer(self, batch: list[Job]) -> None:
        model: Any = self.checkpoint.model
        stops = ends(self.checkpoint)
        rows = [_Answer(job, self._tokenizer, stops) for job in batch]
        self.batches += 1
        self.attachment.strength = [job.request.strength for job in batch]
        inputs = padded([job.request.row for job in batch], self.checkpoint, "left")
        choice = _Choice(rows, self.checkpoint.device)
        most = max(job.request.max_tokens for job in batch)
        model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_processor=[choice],
            stopping_criteria=[_Feed(rows, self.attachment)],
            generation_config=GenerationConfig(
                max_new_tokens=most,
                do_sample=False,
                bos_token_id=getattr(self.checkpoint.tokenizer, "bos_token_id", None),
                pad_token_id=self._pad(stops),
                eos_token_id=stops or None,
            ),
        )
        self.answered += sum(row.whole for row in rows)

    def _pad(self, stops: list[int]) -> int:
        pad = getattr(self.checkpoint.tokenizer, "pad_token_id", None)
        return int(pad) if pad is not None else next(iter(stops), 0)


class _Answer:
    """One row of a batch."""

    def __init__(self, job: Job, tokenizer: Any, stops: list[int]) -> None:
        self.job, self._stops = job, stops
        self._speech = Speech(tokenizer, job.request.stop)
        self._tokens = 0
        self.whole = False

    def feed(self, token: int) -> None:
        """Take the next token."""
        if not self.job.live:
            return
        self._tokens += 1
        if token in self._stops:
            self._finish("stop")
            return
        self._say(self._speech.add(token))
        if self._speech.stopped:
            self._finish("stop")
        elif self._tokens >= self.job.request.max_tokens:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        self._say(self._speech.end())
        self.whole = True
        self.job.finish(Done("stop" if self._speech.stopped else reason, self._tokens))

    def _say(self, text: str) -> None:
        if text and self.job.live:
            self.job.publish(Piece(text))


class _Choice(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token of the rows that sample; `generate` itself is greedy.

    So rows with samplings of their own share a batch, and a seed gives the same draw in any batch.
    """

    def __init__(self, rows: list[_Answer], device: torch.device) -> None:
        self._rows = rows
        self._generators: dict[int, torch.Generator] = {}
        for number, row in enumerate(rows):
            request = row.job.request
            if request.temperature > 0:
                generator = torch.Generator()
                if request.seed is None:
                    generator.seed()
                else:
                    generator.manual_seed(request.seed)
                self._generators[number] = generator

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        bad = ~torch.isfinite(scores).any(-1) | torch.isnan(scores).any(-1)
        for number in bad.nonzero()[:, 0].tolist():
            message = "The model's logits are NaN; load it in float32 or bfloat16."
            self._rows[number].job.finish(Failed(RequestError(message, 500)))
        if not self._generators:
            return scores
        scores = scores.clone()
        for number, generator in self._generators.items():
            if not bad[number] and self._rows[number].job.live:
                request = self._rows[number].job.request
                drawn = sampled(scores[number], request.temperature, request.top_p, generator)
                scores[number] = -torch.inf
                scores[number, drawn] = 0.0
        return scores


def sampled(
    scores: Float[Tensor, " vocabulary"],
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> int:
    """Draw a token from the smallest set of likeliest ones that holds `top_p` of the probability.

    Nucleus sampling: Holtzman et al., arXiv 1904.09751, §3.1.
    """
    probabilities = (scores.double().cpu() / temperature).softmax(-1)
    likely, order = probabilities.sort(descending=True, stable=True)
    kept = likely.cumsum(-1) - likely < top_p
    kept[0] = True
    return int(order[torch.multinomial(likely * kept, 1, generator=generator)])


class _Feed(StoppingCriteria):  # type: ignore[misc]
    """Hands every new token to its row, and says which rows have ended."""

    def __init__(self, rows: list[_Answer], attachment: Attachment) -> None:
        self._rows, self._attachment, self._begun = rows, attachment, False

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Any, **kwargs: Any
    ) -> Bool[Tensor, " rows"]:
        if not self._begun:
            self._begun = True
            self._announce()
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.feed(token)
        over = [not row.job.live for row in self._rows]
        return torch.tensor(over, device=input_ids.device)

    def _announce(self) -> None:
        decided: list[list[Decision]] = [[] for _ in self._rows]
        for decision in self._attachment.decisions:
            decided[decision.row].append(decision)
        for row, decisions in zip(self._rows, decided, strict=True):
            if row.job.live:
                row.job.publish(Started(tuple(decisions)))


def _failure(error: Exception) -> RequestError:
    if is_out_of_memory(error):
        return RequestError("The batch did not fit into memory; try again later.", 503)
    if isinstance(error, MechguardError):
        return RequestError(str(error), 500)
    return RequestError("The server failed on this batch; its log says why.", 500)


def _shutting_down() -> RequestError:
    return RequestError("The server is shutting down.", 503, code="shutting_down")
