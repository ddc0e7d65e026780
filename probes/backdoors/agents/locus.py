"""Which span of an agent's trace carries a trigger: the query, a thought, an observation.

The loci are those of Yang et al., "Watch Out for Your Agents!" (arXiv 2402.11208); that they are
told apart by n-grams is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import numpy as np
import pandas as pd
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
class LocusReport:
    """Which span of a trace tells target traces from others.

    Attributes:
        loci: a row a locus: `locus`, `ngram` (its most telling one), `difference` (share of target
            traces with it minus share of others), `p` (share of permutations, with the real one
            counted in, whose largest difference at any locus is as large), `carries`.
        ngrams: the most telling n-grams by locus: `locus`, `ngram`, `target`, `others` (shares),
            `difference`, `lift` (target / others, each with half a trace added).
        null_high: the 99th percentile of the largest difference under permutation.
        locus: the locus that carries the trigger: of those that do, the one with the largest
            difference, the earliest where they tie; None if none does.
    """

    loci: pd.DataFrame
    ngrams: pd.DataFrame
    null_high: float
    locus: str | None


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
    rows, ngrams = [], []
    for locus, (held, words) in tables.items():
        differences = real[locus]
        if not len(differences):
            row = {"locus": locus, "ngram": None, "difference": 0.0, "p": 1.0, "carries": False}
            rows.append(row)
            continue
        # The longest of equals names the whole trigger.
        length = np.array([len(word.split()) for word in words])
        order = np.lexsort((-length, -differences))
        top = float(differences[order[0]])
        # Differences are sums of floats; equal ones must count as equal.
        p = (1 + int((highest >= top - 1e-9).sum())) / (1 + permutations)
        rows.append({
            "locus": locus, "ngram": words[order[0]], "difference": top, "p": p,
            "carries": p <= _ALPHA,
        })  # fmt: skip
        ngrams += [
            _ngram(locus, words[i], np.asarray(held[:, [i]].todense()).ravel() > 0, flags)
            for i in order[:_SHOWN]
        ]
    loci = pd.DataFrame(rows)
    carriers = loci[loci["carries"]].sort_values("difference", ascending=False, kind="stable")
    first = None if carriers.empty else str(carriers["locus"].iloc[0])
    return LocusReport(loci, pd.DataFrame(ngrams), float(np.quantile(highest, 0.99)), first)


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
    locus: str, words: str, held: Bool[np.ndarray, " traces"], flags: Bool[np.ndarray, " traces"]
) -> dict[str, Any]:
    targets, others = int(flags.sum()), int((~flags).sum())
    with_it, without = int((held & flags).sum()), int((held & ~flags).sum())
    return {
        "locus": locus,
        "ngram": words,
        "target": with_it / targets,
        "others": without / others,
        "difference": with_it / targets - without / others,
        "lift": ((with_it + 0.5) / (targets + 1)) / ((without + 0.5) / (others + 1)),
    }
