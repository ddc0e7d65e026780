"""The rows of one batch: each chooses its tokens, says its text and fails by itself."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from steering.runtime.attachment import Attachment
from steering.runtime.decisions import Decision
from steering.serve.errors import RequestError
from steering.serve.jobs import Done, Failed, Job, Piece, Started
from steering.serve.text import Speech

_log = logging.getLogger("mechguard")


class Answer:
    """One row of a batch.

    Attributes:
        job: that it answers.
        whole: the answer was told to its end.
    """

    def __init__(self, job: Job, tokenizer: Any, stops: Sequence[int]) -> None:
        self.job, self._stops = job, stops
        self._speech = Speech(tokenizer, job.request.stop)
        self._tokens = 0
        self._generator: torch.Generator | None = None
        self.whole = False

    @property
    def samples(self) -> bool:
        """Whether its tokens are drawn."""
        return self.job.request.temperature > 0

    def drawn(self, scores: Float[Tensor, " vocabulary"]) -> int | None:
        """The next token; None where it could not be drawn, which ends this row alone."""
        try:
            request = self.job.request
            if self._generator is None:
                self._generator = torch.Generator()
                if request.seed is None:
                    self._generator.seed()
                else:
                    self._generator.manual_seed(request.seed)
            return sampled(scores, request.temperature, request.top_p, self._generator)
        except Exception:
            self._fail()
            return None

    def feed(self, token: int) -> None:
        """Take the next token; where that fails, this row alone ends."""
        if not self.job.live:
            return
        try:
            self._take(token)
        except Exception:
            self._fail()

    def _take(self, token: int) -> None:
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
        if self.job.live:
            self.whole = True
            self.job.finish(Done("stop" if self._speech.stopped else reason, self._tokens))

    def _say(self, text: str) -> None:
        if text:
            self.job.tell(Piece(text))

    def _fail(self) -> None:
        _log.exception("a row of a batch failed")
        message = "The server failed on this request; its log says why."
        self.job.finish(Failed(RequestError(message, 500)))


class Choice(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token of the rows that sample; `generate` itself is greedy.

    So rows with samplings of their own share a batch, and a seed gives the same draw in any batch.
    """

    def __init__(self, rows: Sequence[Answer]) -> None:
        self._rows = rows
        self._drawing = [number for number, row in enumerate(rows) if row.samples]

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """The scores, with the drawn token alone where a row samples."""
        bad = ~torch.isfinite(scores).any(-1) | (torch.isnan(scores) | (scores == torch.inf)).any(
            -1
        )
        for number in bad.nonzero()[:, 0].tolist():
            message = "The model's logits are NaN or infinite; load it in float32 or bfloat16."
            self._rows[number].job.finish(Failed(RequestError(message, 500)))
        if not self._drawing:
            return scores
        scores = scores.clone()
        for number in self._drawing:
            row = self._rows[number]
            if not row.job.live:
                continue
            token = row.drawn(scores[number])
            if token is not None:
                scores[number] = -torch.inf
                scores[number, token] = 0.0
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
    wide = scores.double().cpu()
    # Below the largest, so that no temperature makes an infinite difference of infinities.
    probabilities = ((wide - wide.max()) / temperature).softmax(-1)
    likely, order = probabilities.sort(descending=True, stable=True)
    kept = likely.cumsum(-1) - likely < top_p
    kept[0] = True
    return int(order[torch.multinomial(likely * kept, 1, generator=generator)])


class Feed(StoppingCriteria):  # type: ignore[misc]
    """Hands every new token to its row, and says which rows have ended."""

    def __init__(self, rows: Sequence[Answer], attachment: Attachment) -> None:
        self._rows, self._attachment, self._begun = rows, attachment, False

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Any, **kwargs: Any
    ) -> Bool[Tensor, " rows"]:
        """Which rows have ended."""
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
            row.job.tell(Started(tuple(decisions)))
