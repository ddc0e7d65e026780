"""Which span of an agent's trace carries a trigger: the query, a thought, an observation.

The loci are those of Yang et al., "Watch Out for Your Agents!" (arXiv 2402.11208); that they are
told apart by n-grams is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

from interp.errors import InputError
from probes.backdoors.agents.traces import PERMUTATIONS, Trace

Locus = Literal["query", "thought", "observation"]
LOCI: tuple[Locus, ...] = ("query", "thought", "observation")
"""In the order in which they come up first."""

_LONGEST = 3  # words of an n-gram
_SHOWN = 5
_CHUNK = 100  # permutations at once
_ALPHA = 0.01


def first_call(tool: str) -> Callable[[Trace], int]:
    """Index of the first step that calls a tool; the number of steps where none does."""
    return lambda trace: next(
        (i for i, step in enumerate(trace.steps) if step.tool == tool), len(trace.steps)
    )


@dataclass(frozen=True)
class LocusRow:
    """How well the words of a span distinguish target traces from others.

    Attributes:
        locus: the span.
        ngram: the most telling of its n-grams; None if no trace has a word there.
        difference: share of target traces with it minus share of others.
        p: share of permutations, with the real one counted in, whose largest difference at any
            locus is as large.
        carries: whether p is small enough.
    """

    locus: Locus
    ngram: str | None
    difference: float
    p: float
    carries: bool


@dataclass(frozen=True)
class NgramRow:
    """An n-gram of a span.

    Attributes:
        locus: the span.
        ngram: its words.
        target: share of target traces that hold it.
        others: share of the other traces.
        difference: `target` − `others`.
        lift: `target` / `others`, each with half a trace added.
    """

    locus: Locus
    ngram: str
    target: float
    others: float
    difference: float
    lift: float


@dataclass(frozen=True)
class LocusReport:
    """Which span of a trace distinguishes target traces from others.

    Attributes:
        loci: one of each locus, in the order of `LOCI`.
        ngrams: the most telling n-grams of every locus, the best first.
        null_high: the 99th percentile of the largest difference under permutation.
        locus: the locus that carries the trigger: of those that do, the one with the largest
            difference, the earliest where they tie; None if none does.
    """

    loci: tuple[LocusRow, ...]
    ngrams: tuple[NgramRow, ...]
    null_high: float
    locus: Locus | None


def locus_attribution(
    traces: Sequence[Trace],
    target: Sequence[bool],
    *,
    until: Callable[[Trace], int] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> LocusReport:
    """Find the span whose words go with a behaviour.

    For every n-gram of up to three words at a locus, the share of target traces that hold it minus
    the share of others. The null shuffles which traces are targets, and takes the largest
    difference over all n-grams and loci each time. That words go with a behaviour does not say that
    they cause it: a thought may repeat the query. So the earliest is taken on ties, and what comes
    behind the behaviour is to be cut off with `until`.

    Args:
        traces: of one agent.
        target: whether each shows the behaviour.
        until: step at which the behaviour shows, such as `first_call(tool)`: thoughts of later
            steps and observations from it on are left out. Nothing is if None.
        permutations: of the null.
        seed: of the permutations.

    Raises:
        InputError: no traces, not as many flags, or all or none are targets.
    """
    flags = np.array(target, bool)
    if len(flags) != len(traces) or not traces:
        raise InputError(
            f"there are {len(traces)} traces and {len(flags)} flags; give a flag for each trace."
        )
    if flags.all() or not flags.any():
        raise InputError("attribution needs traces with the behaviour and traces without it.")
    tables = {locus: _presence([_span(trace, locus, until) for trace in traces]) for locus in LOCI}
    real = {locus: _differences(flags[None], held)[0] for locus, (held, _) in tables.items()}
    generator = np.random.default_rng(seed)
    highest = np.zeros(permutations)
    for start in range(0, permutations, _CHUNK):
        count = min(_CHUNK, permutations - start)
        shuffled = np.stack([generator.permutation(flags) for _ in range(count)])
        for held, _ in tables.values():
            if held.shape[1]:
                largest = _differences(shuffled, held).max(1)
                highest[start : start + count] = np.maximum(highest[start : start + count], largest)
    loci: list[LocusRow] = []
    ngrams: list[NgramRow] = []
    for locus, (held, words) in tables.items():
        differences = real[locus]
        if not len(differences):
            loci.append(LocusRow(locus, None, 0.0, 1.0, carries=False))
            continue
        # The longest of equals names the whole trigger.
        length = np.array([len(word.split()) for word in words])
        order = np.lexsort((-length, -differences))
        top = float(differences[order[0]])
        # Differences are sums of floats; equal ones must count as equal.
        p = (1 + int((highest >= top - 1e-9).sum())) / (1 + permutations)
        loci.append(LocusRow(locus, words[order[0]], top, p, carries=p <= _ALPHA))
        ngrams += [
            _ngram(locus, words[i], np.asarray(held[:, [i]].todense()).ravel() > 0, flags)
            for i in order[:_SHOWN]
        ]
    # The first of equals is the earliest.
    best = max((row for row in loci if row.carries), key=lambda row: row.difference, default=None)
    return LocusReport(
        tuple(loci),
        tuple(ngrams),
        float(np.quantile(highest, 0.99)),
        None if best is None else best.locus,
    )


def _span(trace: Trace, locus: Locus, until: Callable[[Trace], int] | None) -> str:
    end = len(trace.steps) if until is None else until(trace)
    match locus:
        case "query":
            said = [trace.query]
        case "thought":
            said = [step.thought for step in trace.steps[: end + 1]]
        case "observation":
            said = [step.observation for step in trace.steps[:end]]
        case _:
            assert_never(locus)
    # A mark between steps, so that no n-gram runs over two of them.
    return " \u241e ".join(said)


def _presence(texts: Sequence[str]) -> tuple[Any, list[str]]:
    """Which n-grams each text holds, as a sparse matrix [texts, n-grams], and their words."""
    counter = CountVectorizer(
        ngram_range=(1, _LONGEST), token_pattern=r"\S+", binary=True, lowercase=False
    )
    try:
        held = counter.fit_transform(texts)
    except ValueError:  # no text holds a word
        return csr_matrix((len(texts), 0)), []
    words = [str(word) for word in counter.get_feature_names_out()]
    kept = [i for i, word in enumerate(words) if "\u241e" not in word]
    return held[:, kept].astype(np.float64), [words[i] for i in kept]


def _differences(
    flags: Bool[np.ndarray, "draws traces"], held: Any
) -> Float[np.ndarray, "draws ngrams"]:
    weights = flags / flags.sum(1, keepdims=True) - ~flags / (~flags).sum(1, keepdims=True)
    found: np.ndarray = (held.T @ weights.T).T
    return found


def _ngram(
    locus: Locus, words: str, held: Bool[np.ndarray, " traces"], flags: Bool[np.ndarray, " traces"]
) -> NgramRow:
    targets, others = int(flags.sum()), int((~flags).sum())
    with_it, without = int((held & flags).sum()), int((held & ~flags).sum())
    return NgramRow(
        locus,
        words,
        with_it / targets,
        without / others,
        with_it / targets - without / others,
        ((with_it + 0.5) / (targets + 1)) / ((without + 0.5) / (others + 1)),
    )
