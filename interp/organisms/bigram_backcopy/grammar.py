"""The Bigram-Backcopy language: a task on which an attention head must sleep most of the time.

Tokens follow a bigram table, which an MLP can learn alone. After a *trigger* token the next token
repeats the one before the trigger, which only attention can do. So it is known for every position
whether a head that serves the copy is needed (active, on triggers) or not (dormant, elsewhere).

Source: Guo et al., Active-Dormant Attention Heads, arXiv 2410.13835, section 2; the small setting
with inserted triggers is ours.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError


@dataclass(frozen=True, eq=False)
class Grammar:
    """A Bigram-Backcopy language over a vocabulary of V tokens.

    Attributes:
        tokens: the spelling of every token id.
        start: law of the first token after BOS, (V,). Its trigger probabilities are not used,
            because a trigger there would copy BOS.
        transition: the bigram table, (V, V), a row per current token. The rows of BOS and of the
            triggers are never used.
        triggers: ids of the trigger tokens.
        bos: id of the token that opens every sequence.
        trigger_rate: None when triggers come from the table itself, as in the paper; otherwise the
            probability that a uniformly drawn trigger follows an ordinary token instead of a draw
            from the table, whose trigger columns must then be empty.
    """

    tokens: tuple[str, ...]
    start: Float[np.ndarray, " v"]
    transition: Float[np.ndarray, "v v"]
    triggers: tuple[int, ...]
    bos: int
    trigger_rate: float | None = None

    def __post_init__(self) -> None:
        """Refuse tables that do not describe a language.

        Raises:
            InputError: shapes, ids or probabilities do not fit together.
        """
        size = len(self.tokens)
        if self.start.shape != (size,) or self.transition.shape != (size, size):
            raise InputError(
                f"A grammar of {size} tokens needs a start law of shape ({size},) and a table of "
                f"shape ({size}, {size}); got {self.start.shape} and {self.transition.shape}."
            )
        if not all(0 <= i < size for i in (*self.triggers, self.bos)) or self.bos in self.triggers:
            raise InputError(
                f"Triggers {self.triggers} and BOS {self.bos} must be distinct ids below {size}."
            )
        if self.trigger_rate is not None and not 0 <= self.trigger_rate < 1:
            raise InputError(
                f"trigger_rate is {self.trigger_rate}; it must lie in [0, 1) or be None."
            )
        if not np.allclose(self.law[self.speakers].sum(1), 1.0):
            raise InputError("Every row of a bigram table that is in use must sum to 1.")

    @cached_property
    def speakers(self) -> Int[np.ndarray, " n"]:
        """Ids of the tokens after which the law below holds: BOS and all that can follow it."""
        used = self.transition.sum(1) > 0
        used[list(self.triggers)] = False
        used[self.bos] = True
        return np.flatnonzero(used)

    @cached_property
    def law(self) -> Float[np.ndarray, "v v"]:
        """The true law of the next token after each token that is no trigger, (V, V).

        The row of BOS is the start law. Where triggers are inserted, the inserted mass is part of
        the law.
        """
        triggers = list(self.triggers)
        law = np.array(self.transition, dtype=np.float64)
        if self.trigger_rate is not None:
            law *= 1.0 - self.trigger_rate
            law[:, triggers] += self.trigger_rate / len(triggers)
        first = np.array(self.start, dtype=np.float64)
        first[triggers] = 0.0
        law[self.bos] = first / first.sum()
        law[triggers] = 0.0
        return law

    @cached_property
    def entropy(self) -> Float[np.ndarray, " v"]:
        """Entropy in nats of each row of the law; 0 for triggers, whose successor is certain."""
        law = self.law
        return -(law * np.log(law, out=np.zeros_like(law), where=law > 0)).sum(1)

    @cached_property
    def _cumulated(self) -> Float[np.ndarray, "v v"]:
        total = self.law.cumsum(1)
        return total / np.maximum(total[:, -1:], np.finfo(np.float64).tiny)

    def sample(
        self, batch: int, length: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "batch length"]:
        """Draw sequences, each opened by BOS.

        Args:
            batch: number of sequences.
            length: tokens in each, BOS counted; at least 2.
            rng: the source of all randomness.
        """
        if length < 2:
            raise InputError(
                f"A sequence needs BOS and one more token, so length ≥ 2; got {length}."
            )
        out = np.full((batch, length), self.bos, dtype=np.int64)
        uniforms = rng.random((length, batch, 1))
        for t in range(1, length):
            before = out[:, t - 1]
            drawn = (uniforms[t] >= self._cumulated[before]).sum(1)
            copied = out[:, t - 2]
            out[:, t] = np.where(self.active(before), copied, drawn)
        return out

    def active(self, ids: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """True at triggers, the queries at which attention is needed."""
        return np.isin(ids, self.triggers)

    def dormant(self, ids: Int[np.ndarray, "batch length"]) -> Bool[np.ndarray, "batch length"]:
        """True at tokens that are neither trigger nor BOS, where attention has nothing to add."""
        return ~self.active(ids) & (ids != self.bos)

    def next_law(self, ids: Int[np.ndarray, "batch length"]) -> Float[np.ndarray, "batch length v"]:
        """The oracle: the exact law of the token after each position, given all before it."""
        law = self.law[ids]
        before = np.roll(ids, 1, axis=1)
        rows, columns = np.nonzero(self.active(ids))
        law[rows, columns, before[rows, columns]] = 1.0
        return law

    def oracle(self, length: int, first: int = 0) -> "Oracle":
        """What a perfect predictor reaches, computed exactly by following the chain's law.

        Args:
            length: tokens in a sequence, BOS counted; every one of them is a query.
            first: leave out queries before this position.
        """
        size = len(self.tokens)
        marginal = np.zeros((size, size))  # of (token before, current token)
        marginal[self.bos, self.bos] = 1.0
        is_trigger = np.isin(np.arange(size), self.triggers)
        risk, quiet, fired = 0.0, 0.0, 0.0
        for t in range(length):
            current = marginal.sum(0)
            if t >= first:
                risk += float((current * self.entropy)[~is_trigger].sum())
                quiet += float(current[~is_trigger].sum())
                fired += float(current[is_trigger].sum())
            ahead = np.where(is_trigger, 0.0, current)[:, None] * self.law
            ahead[is_trigger] = marginal[:, is_trigger].T
            marginal = ahead
        return Oracle(bigram=risk / quiet, backcopy=0.0, trigger_fraction=fired / (quiet + fired))

    def at_rate(self, trigger_rate: float) -> "Grammar":
        """The same language with triggers inserted at another rate (0: none at all)."""
        return replace(self, trigger_rate=trigger_rate)

    def spell(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> str:
        """Token names joined by spaces, the form that the organism's tokenizer reads."""
        return " ".join(self.tokens[int(i)] for i in ids)


@dataclass(frozen=True)
class Oracle:
    """The exact risks of the true law, in nats, over the queries of a sequence.

    Attributes:
        bigram: expected entropy at queries that are no trigger (BOS included).
        backcopy: the same at triggers: 0, as the successor is certain.
        trigger_fraction: share of the queries that are triggers.
    """

    bigram: float
    backcopy: float
    trigger_fraction: float


def small_grammar(
    ordinary: int = 60,
    triggers: int = 3,
    concentration: float = 0.1,
    trigger_rate: float = 0.12,
    seed: int = 0,
) -> Grammar:
    """The small setting: a sparse random table with triggers inserted at a fixed rate.

    Ids: 0 is BOS, then the triggers (`t1`, `t2`, …), the ordinary tokens (`w04`, `w05`, …) and last
    a padding token that the language never produces.

    Args:
        ordinary: number of ordinary tokens.
        triggers: number of trigger tokens.
        concentration: of the symmetric Dirichlet law that every row of the table is drawn from.
        trigger_rate: probability that a trigger follows an ordinary token.
        seed: of the table.
    """
    low = 1 + triggers
    size = low + ordinary + 1
    names = ["<bos>", *(f"t{i}" for i in range(1, low))]
    names += [f"w{i:02d}" for i in range(low, size - 1)] + ["<pad>"]
    words = slice(low, size - 1)
    transition = np.zeros((size, size))
    rng = np.random.default_rng(seed)
    transition[words, words] = rng.dirichlet(np.full(ordinary, concentration), size=ordinary)
    start = np.zeros(size)
    start[words] = 1.0 / ordinary
    return Grammar(tuple(names), start, transition, tuple(range(1, low)), 0, trigger_rate)


def char_grammar(text: str, triggers: int = 3) -> Grammar:
    """The paper's setting: characters of a text, with the most frequent ones as triggers.

    Ids are those of the sorted characters, followed by `<s_0>` (the paper's vocabulary has one more
    token, a delimiter of probability zero in its main runs, which is left out here).

    Args:
        text: the text that bigrams are counted over (tiny Shakespeare in the paper).
        triggers: how many of the most frequent characters become triggers.

    Raises:
        InputError: the text has too few distinct characters.

    Source: arXiv 2410.13835, section 2 (BBM/data.py).
    """
    counts = Counter(text)
    chars = sorted(counts)
    if len(chars) <= triggers:
        raise InputError(
            f"The text has {len(chars)} distinct characters; {triggers} triggers need more."
        )
    size = len(chars) + 1
    ids = np.searchsorted(np.array(chars), np.array(list(text)))
    pairs = np.bincount(ids[:-1] * size + ids[1:], minlength=size * size).reshape(size, size)
    transition = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    start = np.array([counts[c] for c in chars] + [0]) / len(text)
    common = tuple(sorted(chars.index(c) for c, _ in counts.most_common(triggers)))
    return Grammar((*chars, "<s_0>"), start, transition, common, size - 1)
