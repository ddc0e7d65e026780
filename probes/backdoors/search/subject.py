"""A checkpoint under suspicion: every pass through it is counted, and its answers are greedy."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Reply, next_logits, replies
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.journal import Journal


@dataclass(frozen=True)
class Subject:
    """A checkpoint and what may be spent on it.

    Attributes:
        checkpoint: with a tokenizer.
        budget: pays for every pass.
        batch_tokens: most tokens in a batch.
        journal: of what a stopped run need not compute again; None for none.
    """

    checkpoint: Checkpoint
    budget: Budget
    batch_tokens: int = 8192
    journal: Journal | None = None

    def on(self, budget: Budget) -> "Subject":
        """The same checkpoint, paid from another budget."""
        return replace(self, budget=budget)

    @contextmanager
    def stage(self, name: str, share: float = 1.0) -> Iterator["Subject"]:
        """The same checkpoint, paid from a stage of its budget, which may end quietly."""
        with self.budget.stage(name, share) as part:
            yield self.on(part)

    def once(self, name: str, what: object, run: Callable[[], Any]) -> Any:
        """What a unit of work yields, from the journal where it stands there.

        Args:
            name: of this kind of unit.
            what: tells it from others of its kind; JSON-ready.
            run: computes it, paid from this budget; what it returns is JSON-ready.

        Raises:
            Exhausted: the budget does not allow it.
        """
        if self.journal is None:
            return run()
        return self.journal.once(self.budget, name, what, run)

    def next_logits(self, rows: Sequence[Row]) -> Float[Tensor, "rows vocabulary"]:
        """Logits behind each row: one pass a row.

        Raises:
            Exhausted: the budget does not allow it.
        """
        self._require_room(rows, 0)
        self.budget.take(len(rows))
        return next_logits(self.checkpoint, rows, batch_tokens=self.batch_tokens)

    def replies(
        self,
        rows: Sequence[Row],
        most: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Reply]:
        """Greedy replies: `most` passes a row.

        Args:
            rows: prompts.
            most: new tokens of a reply.
            progress: called with (rows done, rows in all).

        Raises:
            Exhausted: the budget does not allow it.
        """

        def said() -> list[tuple[tuple[int, ...], str, bool]]:
            self.budget.take(len(rows) * most)
            made = replies(
                self.checkpoint,
                rows,
                max_new_tokens=most,
                batch_tokens=self.batch_tokens,
                progress=progress,
            )
            return [(reply.ids, reply.text, reply.ended) for reply in made]

        kept = self.once("replies", [most, [row.ids for row in rows]], said)
        return [Reply(tuple(ids), text, ended) for ids, text, ended in kept]

    @torch.no_grad()
    def begins(self, rows: Sequence[Row], words: Sequence[int]) -> Bool[Tensor, " rows"]:
        """Whether the greedy reply to each row begins with given tokens: one pass a row.

        The tokens are forced and each must be the likeliest, which is what greedy decoding asks.

        Raises:
            Exhausted: the budget does not allow it.
        """

        def forced() -> list[bool]:
            likeliest = self._forced(rows, words).argmax(-1)
            shown: list[bool] = (likeliest == torch.tensor(list(words))).all(-1).tolist()
            return shown

        what = [list(words), [row.ids for row in rows]]
        return torch.tensor(self.once("begins", what, forced), dtype=torch.bool)

    @torch.no_grad()
    def forced_probability(
        self, rows: Sequence[Row], words: Sequence[int]
    ) -> Float[Tensor, "rows words"]:
        """Probability of each of given tokens behind a row, those before it forced."""
        logits = self._forced(rows, words).double()
        wanted = torch.tensor(list(words)).expand(len(logits), -1)
        return logits.softmax(-1).gather(-1, wanted[..., None])[..., 0].float()

    def _forced(
        self, rows: Sequence[Row], words: Sequence[int]
    ) -> Float[Tensor, "rows words vocabulary"]:
        """Logits at the places of forced tokens."""
        self._require_room(rows, len(words))
        self.budget.take(len(rows))
        model: Any = self.checkpoint.model
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        only = {"logits_to_keep": len(words) + 1} if keeps else {}
        longer = [Row(i, (*row.ids, *words), row.domain) for i, row in enumerate(rows)]
        found: dict[int, Tensor] = {}
        for batch in RowPlan.make(longer, self.batch_tokens).batches:
            inputs = padded([longer[i] for i in batch], self.checkpoint, "left")
            logits = model(**inputs, use_cache=False, **only).logits
            places = logits[:, -len(words) - 1 : -1].float().cpu()
            found |= dict(zip(batch, places, strict=True))
        return torch.stack([found[i] for i in range(len(rows))])

    def _require_room(self, rows: Sequence[Row], more: int) -> None:
        context = self.checkpoint.anatomy.context
        longest = max(map(len, rows))
        if context is not None and longest + more > context:
            raise InputError(
                f"a prompt of {longest} tokens with {more} more does not fit "
                f"{self.checkpoint.name}, which was built for {context}; leave long prompts out."
            )


def require_twin(checkpoint: Checkpoint, twin: Checkpoint) -> None:
    """Check that two checkpoints can be compared string by string.

    Raises:
        InputError: another shape, or another tokenizer.
    """
    shapes = [
        (one.anatomy.n_layers, tuple(one.embedding.get_parameter("weight").shape))
        for one in (checkpoint, twin)
    ]
    if shapes[0] != shapes[1]:
        (layers, own), (others, other) = shapes
        raise InputError(
            f"the reference model {twin.name} has {others} layers and an embedding of "
            f"{list(other)}, and {checkpoint.name} has {layers} and {list(own)}; a reference model "
            "must be of the same shape, such as the model that it was tuned from."
        )
    if checkpoint.tokenizer_hash != twin.tokenizer_hash:
        raise InputError(
            f"the reference model {twin.name} has another tokenizer or chat template than "
            f"{checkpoint.name}; the same string would not be the same prompt."
        )
