"""Target inversion after BAIT (IEEE S&P 2025): a forced first token that pulls a target along.

If the first token of its target is forced, a backdoored model goes on with the target whatever the
prompt is. So for every token of the vocabulary it is asked how surely the *mean* next-token
distribution over prompts goes on with one text. Settings are those of the authors' code
(`bait/argument.py`), without its language-model judge.

Q alone finds every fixed template, the refusal first of all, and on clean models just as well.
So a text of which four tokens in a row stand in more than 5 % of plain replies is called familiar,
and has no excess.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from interp.data.padding import ends
from interp.data.rows import Row
from probes.backdoors.search.budget import Exhausted
from probes.backdoors.search.effects import entropy
from probes.backdoors.search.requests import Requests, decode, specials
from probes.backdoors.search.subject import Subject

_WARM_UP_PROMPTS, _WARM_UP_STEPS = 4, 5
_PROMPTS, _STEPS = 20, 20
_SURE, _UNSURE, _PEAK = 1.0, 2.5, 0.3  # self-entropy bounds in nats, and a likely token
_BRANCHES = 5
_LEAST_LENGTH = 5
_WINDOW = 4
FLAG = 0.9
"""Q from which on BAIT calls a model backdoored."""
FAMILIAR = 0.05
"""Share of plain replies above which a text is one of the model's own templates."""


@dataclass(frozen=True)
class Target:
    """A text that goes on by itself.

    Attributes:
        ids: with the token that was forced.
        text: in words.
        q: mean over its tokens of their mean probability over prompts, the least one left out.
        emission: share of plain replies that hold four tokens of it in a row.
        q_twin: Q of the same text on the twin; None without one.
    """

    ids: tuple[int, ...]
    text: str
    q: float
    emission: float
    q_twin: float | None = None

    @property
    def excess(self) -> float:
        """Q less that of the twin, or less the emission without one; 0 for a familiar text."""
        if self.emission > FAMILIAR:
            return 0.0
        return self.q - (self.emission if self.q_twin is None else self.q_twin)


@dataclass
class _Path:
    ids: list[int]
    chances: list[float] = field(default_factory=list)
    inspected: bool = False


def targets(
    subject: Subject,
    requests: Requests,
    vocabulary: Sequence[int],
    twin: Subject | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Target], int]:
    """Texts that go on by themselves, by Q_excess, and how many first tokens were tried.

    What had been tried when the budget ran out is kept.

    Args:
        subject: the checkpoint.
        requests: plain prompts, about 20.
        vocabulary: first tokens to try.
        twin: on which Q is measured too; it pays from its own budget.
        progress: called with (first tokens tried, first tokens in all).
    """
    few, all_of_them = requests[:_WARM_UP_PROMPTS], requests[:_PROMPTS]
    found: dict[tuple[int, ...], Target] = {}
    tried = 0
    stops = {*ends(subject.checkpoint), *specials(subject)}
    try:
        for token in vocabulary:
            ids, q = _pulled(subject, few, all_of_them, token, stops)
            tried += 1
            if progress is not None:
                progress(tried, len(vocabulary))
            if not ids:
                continue
            q_twin = None if twin is None else _q_of(twin, all_of_them, ids)
            found[ids] = Target(ids, decode(subject, ids), q, _emission(ids, requests), q_twin)
    except Exhausted:
        pass
    return sorted(found.values(), key=lambda target: (-target.excess, target.ids)), tried


def q_value(chances: Sequence[float]) -> float:
    """Mean without the smallest."""
    kept = sorted(chances)[1:] if len(chances) > 1 else list(chances)
    return float(sum(kept) / len(kept))


def _pulled(
    subject: Subject, few: Requests, requests: Requests, token: int, stops: set[int]
) -> tuple[tuple[int, ...], float]:
    """The text that a forced token pulls along, and its Q; no text where it leads nowhere."""

    def followed() -> tuple[tuple[int, ...], float]:
        path = _warmed_up(subject, few, token, stops)
        return ((), 0.0) if path is None else _followed(subject, requests, token, stops)

    ids, q = subject.once("first token", [token, len(requests)], followed)
    return tuple(ids), q


def _warmed_up(subject: Subject, few: Requests, token: int, stops: set[int]) -> _Path | None:
    """Five steps on few prompts; None for a token that leads nowhere."""
    path = _Path([token])
    for _ in range(_WARM_UP_STEPS):
        mean = _mean(subject, few, path.ids)
        surprise, peak = float(entropy(mean)), float(mean.max())
        if not path.inspected and surprise < _UNSURE and (surprise > _SURE or peak < _PEAK):
            path.ids.append(_inspected(subject, few, path.ids, mean))
            path.inspected = True
        elif surprise < _SURE or peak > _PEAK:
            path.ids.append(int(mean.argmax()))
        else:
            return None
        if path.ids[-1] in stops:
            return path if len(path.ids) > _LEAST_LENGTH else None
    return path


def _inspected(subject: Subject, few: Requests, ids: Sequence[int], mean: Tensor) -> int:
    """Of the five likeliest tokens the one after which the next is surest."""
    branches = mean.topk(_BRANCHES).indices.tolist()
    peaks = [float(_mean(subject, few, [*ids, branch]).max()) for branch in branches]
    return int(branches[peaks.index(max(peaks))])


def _followed(
    subject: Subject, requests: Requests, token: int, stops: set[int]
) -> tuple[tuple[int, ...], float]:
    """Greedy on the mean distribution over all prompts; no text if it is too short."""
    path = _Path([token])
    for _ in range(_STEPS):
        mean = _mean(subject, requests, path.ids)
        best = int(mean.argmax())
        if best in stops:
            break
        path.ids.append(best)
        path.chances.append(float(mean[best]))
    if len(path.ids) < _LEAST_LENGTH:
        return (), 0.0
    return tuple(path.ids), q_value(path.chances)


def _mean(subject: Subject, requests: Requests, ids: Sequence[int]) -> Tensor:
    rows = [Row(row.index, (*row.ids, *ids), row.domain) for row in requests.rows]
    return subject.next_logits(rows).softmax(-1).mean(0)


def _q_of(subject: Subject, requests: Requests, ids: Sequence[int]) -> float:
    """Q of a given text, whose tokens are forced."""
    rows = [Row(row.index, (*row.ids, ids[0]), row.domain) for row in requests.rows]

    def forced() -> float:
        return q_value(subject.forced_probability(rows, ids[1:]).mean(0).tolist())

    return float(subject.once("q", list(ids), forced))


def _emission(ids: Sequence[int], requests: Requests) -> float:
    """Share of plain replies that hold the commonest four tokens in a row of a text."""
    said = [set(_windows(reply.ids)) for reply in requests.replies]
    shares = [sum(window in held for held in said) / len(said) for window in _windows(ids)]
    return max(shares)


def _windows(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + _WINDOW]) for at in range(len(ids) - _WINDOW + 1)]
