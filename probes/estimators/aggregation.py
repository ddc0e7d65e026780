"""From scores of tokens to one score of a row, over the whole row or one token at a time.

Every aggregator has two forms. `aggregate` takes all scores of a padded batch and can be
differentiated. `start`, `update` and `value` take one token after another and keep a state whose
size does not grow with the row; after any number of tokens they give what `aggregate` gives for
those. States are float64, so that a long row costs no digits.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import InputError

# What an aggregator remembers; the first entry counts the tokens of each row, [batch].
State = tuple[Tensor, ...]


class Aggregator(ABC):
    """Base of all aggregators."""

    name: ClassVar[str]

    @property
    def channels(self) -> int:
        """Scores that each token has; 0 where the score is one number without an axis."""
        return 0

    def aggregate(
        self, scores: Float[Tensor, "batch length *channels"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, " batch"]:
        """The score of every row.

        Args:
            scores: of each token.
            mask: True at tokens; padding may stand on either side.

        Raises:
            InputError: a row has no token, or tokens have the wrong number of scores.
        """
        self._require(scores.shape[2:])
        if bool((empty := ~mask.any(1)).any()):
            raise InputError(f"row {int(empty.nonzero()[0])} has no token, so it has no score.")
        return self._whole(*_packed(scores, mask))

    def relaxed(
        self, scores: Float[Tensor, "batch length *channels"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, " batch"]:
        """What stands in for `aggregate` while a probe is trained: itself, where it is smooth."""
        return self._relaxed(scores, mask)

    def start(self, batch: int, device: torch.device | None = None) -> State:
        """The state of rows that have seen no token."""
        return self._start(torch.zeros(batch, dtype=torch.float64, device=device))

    def update(
        self,
        state: State,
        score: Float[Tensor, "batch *channels"],
        real: Bool[Tensor, " batch"] | None = None,
    ) -> State:
        """The state after one more token.

        Args:
            state: before it.
            score: of the token in each row.
            real: False for rows in which this is padding; their state stays.

        Raises:
            InputError: the token has the wrong number of scores.
        """
        self._require(score.shape[1:])
        new = self._next(state, score.double())
        return new if real is None else tuple(map(partial(_chosen, real), new, state))

    def value(self, state: State) -> Float[Tensor, " batch"]:
        """The score of each row so far; NaN for a row that has seen no token."""
        return torch.where(state[0] > 0, self._value(state), torch.nan)

    def settings(self) -> dict[str, Any]:
        """Name and settings, from which `aggregator` makes the same again."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        """`aggregate` of a right-padded batch in which every row has a token."""

    def _relaxed(self, scores: Tensor, mask: Tensor) -> Tensor:
        return self.aggregate(scores, mask)

    @abstractmethod
    def _start(self, none: Tensor) -> State:
        """The state before any token, made of zeros [batch]."""

    @abstractmethod
    def _next(self, state: State, score: Tensor) -> State: ...

    def _value(self, state: State) -> Tensor:
        return state[-1]

    def _require(self, shape: torch.Size) -> None:
        wanted = (self.channels,) if self.channels else ()
        if tuple(shape) != wanted:
            raise InputError(f"{self.name} takes {wanted} scores a token; got {tuple(shape)}.")


@dataclass(frozen=True)
class Mean(Aggregator):
    """The mean over all tokens."""

    name = "mean"

    def _start(self, none: Tensor) -> State:
        return none, none

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, 0).sum(1) / mask.sum(1)

    def _next(self, state: State, score: Tensor) -> State:
        return state[0] + 1, state[1] + score

    def _value(self, state: State) -> Tensor:
        return state[1] / state[0]


@dataclass(frozen=True)
class Last(Aggregator):
    """The last token's."""

    name = "last"

    def _start(self, none: Tensor) -> State:
        return none, none

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]

    def _next(self, state: State, score: Tensor) -> State:
        return state[0] + 1, score


@dataclass(frozen=True)
class Max(Aggregator):
    """The highest. Trained as softmax-weighted mean at temperature 1."""

    name = "max"

    def _start(self, none: Tensor) -> State:
        return none, none - torch.inf

    def _relaxed(self, scores: Tensor, mask: Tensor) -> Tensor:
        return SoftmaxWeighted().aggregate(scores, mask)

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, -torch.inf).amax(1)

    def _next(self, state: State, score: Tensor) -> State:
        return state[0] + 1, torch.maximum(state[1], score)


@dataclass(frozen=True)
class Ema(Aggregator):
    """The highest value of the exponential moving average.

    e_t = α s_t + (1 − α) e_{t−1}, begun at e_1 = s_1. Trained as a mean.

    Attributes:
        alpha: share of the newest token.
    """

    alpha: float = 0.5
    name = "ema"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}; it lies above 0 and is at most 1.")

    def _start(self, none: Tensor) -> State:
        return none, none, none - torch.inf

    def _relaxed(self, scores: Tensor, mask: Tensor) -> Tensor:
        return Mean().aggregate(scores, mask)

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        average = best = scores[:, 0]
        for position in range(1, scores.shape[1]):
            average = self.alpha * scores[:, position] + (1 - self.alpha) * average
            best = torch.where(mask[:, position], torch.maximum(best, average), best)
        return best

    def _next(self, state: State, score: Tensor) -> State:
        count, average, best = state
        moved = self.alpha * score + (1 - self.alpha) * average
        average = torch.where(count == 0, score, moved)
        return count + 1, average, torch.maximum(best, average)


@dataclass(frozen=True)
class RollingMean(Aggregator):
    """The highest mean of `window` tokens in a row, once there are as many. Trained as a mean.

    Attributes:
        window: number of tokens; 10 in arXiv 2601.11516.
    """

    window: int = 10
    name = "rolling-mean"

    def __post_init__(self) -> None:
        _require_positive("window", self.window)

    def _start(self, none: Tensor) -> State:
        return none, none[:, None].repeat(1, self.window), none

    def _relaxed(self, scores: Tensor, mask: Tensor) -> Tensor:
        return Mean().aggregate(scores, mask)

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        means, valid = window_means(scores, mask, self.window)
        return means.masked_fill(~valid, -torch.inf).amax(1)

    def _next(self, state: State, score: Tensor) -> State:
        count, window, best = state
        count = count + 1
        window = torch.cat([window[:, 1:], score[:, None]], 1)
        mean = window.sum(1) / count.clamp_max(self.window)
        best = torch.where(count <= self.window, mean, torch.maximum(best, mean))
        return count, window, best


class _Weighted(Aggregator):
    """A mean of values with the softmax of queries as weights; heads are added."""

    @abstractmethod
    def _parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and values, [..., heads]."""

    def _start(self, none: Tensor) -> State:
        heads = none[:, None].repeat(1, max(self.channels // 2, 1))
        return none, heads - torch.inf, heads, heads

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        queries, values = self._parts(scores)
        padding = ~mask[..., None]
        weights = queries.masked_fill(padding, -torch.inf).softmax(1)
        return (weights * values.masked_fill(padding, 0)).sum((1, 2))

    def _next(self, state: State, score: Tensor) -> State:
        # Relative to the highest query so far, so that no exponential overflows.
        (count, highest, weight, total), (query, value) = state, self._parts(score)
        above = torch.maximum(highest, query)
        before, now = (highest - above).exp(), (query - above).exp()
        return count + 1, above, weight * before + now, total * before + now * value

    def _value(self, state: State) -> Tensor:
        return (state[3] / state[2]).sum(1)


@dataclass(frozen=True)
class SoftmaxWeighted(_Weighted):
    """The mean weighted by the softmax of the scores themselves.

    Attributes:
        temperature: by which they are divided in the softmax; small ones come near the maximum.
    """

    temperature: float = 1.0
    name = "softmax"

    def __post_init__(self) -> None:
        _require_positive("temperature", self.temperature)

    def _parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return scores[..., None] / self.temperature, scores[..., None]


@dataclass(frozen=True)
class Attention(_Weighted):
    """Attention probe: a softmax over query scores weighs the values; heads are added.

    Σ_h Σ_t softmax_t(q_ht) v_ht (arXiv 2506.10805 with one head, 2601.11516 with several). A
    token's first `heads` scores are the queries, the others the values.

    Attributes:
        heads: number of query–value pairs.
    """

    heads: int = 1
    name = "attention"

    def __post_init__(self) -> None:
        _require_positive("heads", self.heads)

    @property
    def channels(self) -> int:
        """A query and a value for each head."""
        return 2 * self.heads

    def _parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return scores[..., : self.heads], scores[..., self.heads :]


@dataclass(frozen=True)
class MultiMax(Aggregator):
    """The highest score of every head, added: Σ_h max_t v_ht (arXiv 2601.11516).

    Trained softly, a softmax-weighted mean a head; hard in use, so that no length dilutes a token.

    Attributes:
        heads: scores of each token.
    """

    heads: int = 4
    name = "multimax"

    def __post_init__(self) -> None:
        _require_positive("heads", self.heads)

    @property
    def channels(self) -> int:
        """One for each head."""
        return self.heads

    def _start(self, none: Tensor) -> State:
        return none, none[:, None].repeat(1, self.heads) - torch.inf

    def _relaxed(self, scores: Tensor, mask: Tensor) -> Tensor:
        return Attention(self.heads).aggregate(torch.cat([scores, scores], -1), mask)

    def _whole(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask[..., None], -torch.inf).amax(1).sum(1)

    def _next(self, state: State, score: Tensor) -> State:
        return state[0] + 1, torch.maximum(state[1], score)

    def _value(self, state: State) -> Tensor:
        return state[1].sum(1)


AGGREGATORS: dict[str, type[Aggregator]] = {
    kind.name: kind
    for kind in (Mean, Last, Max, Ema, RollingMean, SoftmaxWeighted, Attention, MultiMax)
}


def aggregator(name: str, **settings: Any) -> Aggregator:
    """An aggregator by its name, such as `ema` with `alpha=0.3`.

    Raises:
        InputError: there is none of that name, or it has no such setting.
    """
    if name not in AGGREGATORS:
        raise InputError(f"there is no aggregation {name!r}; there are {', '.join(AGGREGATORS)}.")
    try:
        return AGGREGATORS[name](**settings)
    except TypeError as error:
        raise InputError(f"{name} does not take {', '.join(settings)}.") from error


def window_means(
    scores: Float[Tensor, "batch length"], mask: Bool[Tensor, "batch length"], window: int
) -> tuple[Float[Tensor, "batch windows"], Bool[Tensor, "batch windows"]]:
    """The mean of every `window` tokens in a row (of all, where there are fewer), and which exist.

    Args:
        scores: of each token.
        mask: True at tokens; padding may stand on either side.
        window: number of tokens.
    """
    scores, mask = _packed(scores, mask)
    lengths = mask.sum(1, keepdim=True)
    padding = (0, max(window - scores.shape[1], 0))
    padded = torch.nn.functional.pad(scores.masked_fill(~mask, 0), padding)
    means = padded.unfold(1, window, 1).sum(-1) / lengths.clamp(1, window)
    begin = torch.arange(means.shape[1], device=means.device)
    return means, (begin + window <= lengths) | (begin == 0)


def _packed(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same with the tokens in front and the padding behind."""
    if not bool((mask[:, 1:] > mask[:, :-1]).any()):
        return scores, mask
    order = torch.argsort((~mask).int(), dim=1, stable=True)
    places = order.reshape(*order.shape, *(1,) * (scores.ndim - 2)).expand_as(scores)
    return scores.gather(1, places), mask.gather(1, order)


def _chosen(real: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(real.reshape(-1, *(1,) * (old.ndim - 1)), new, old)


def _require_positive(what: str, value: int | float) -> None:
    if not value > 0:
        raise InputError(f"{what} is {value}; it must be above 0.")
