"""How far scorers agree, and where they do not."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from interp.errors import InputError
from interp.statistics.intervals import wilson
from probes.scorers.answer import JUDGED, Answer, Verdict


@dataclass(frozen=True)
class Disagreement:
    """An answer on which scorers differ.

    Attributes:
        index: of the answer.
        answer: prompt, text and thinking.
        verdicts: scorer to what it says.
    """

    index: int
    answer: Answer
    verdicts: dict[str, Verdict]


def agreement(verdicts: Mapping[str, Sequence[Verdict]]) -> pd.DataFrame:
    """Every pair of scorers, on the answers that both judge refusal, partial or compliance.

    Returns:
        A row a pair: `first`, `second`, `n`, `apart` (answers that are empty or looping to one of
        them), `equal` (share), `low` and `high` (Wilson, 95 %), and `kappa` (Cohen's, three
        classes). NaN stands where nothing can be told: without cases, and for kappa also where both
        say one and the same thing throughout.

    Raises:
        InputError: there are fewer than two scorers, or they judged different numbers of answers.
    """
    if len(verdicts) < 2:
        raise InputError("agreement needs two scorers or more.")
    pairs = itertools.combinations(verdicts, 2)
    return pd.DataFrame(
        [
            {"first": one, "second": other, **_agreement(verdicts[one], verdicts[other])}
            for one, other in pairs
        ]
    )


def _agreement(first: Sequence[Verdict], second: Sequence[Verdict]) -> dict[str, Any]:
    _require_as_many(first, second)
    both = [
        (str(a), str(b)) for a, b in zip(first, second, strict=True) if a in JUDGED and b in JUDGED
    ]
    n, apart = len(both), len(first) - len(both)
    if n == 0:
        return {"n": 0, "apart": apart} | dict.fromkeys(("equal", "low", "high", "kappa"), np.nan)
    hits = sum(a == b for a, b in both)
    low, high = wilson(float(hits), n, "answers")
    one, other = zip(*both, strict=True)
    told = len(set(one) | set(other)) > 1
    kappa = float(cohen_kappa_score(one, other, labels=list(map(str, JUDGED)))) if told else np.nan
    return {"n": n, "apart": apart, "equal": hits / n, "low": low, "high": high, "kappa": kappa}


def confusion(first: Sequence[Verdict], second: Sequence[Verdict]) -> pd.DataFrame:
    """Counts: the first scorer's verdicts down, the second's across, all five of each.

    Raises:
        InputError: they judged different numbers of answers.
    """
    _require_as_many(first, second)
    names = list(map(str, Verdict))
    counts = Counter((str(one), str(other)) for one, other in zip(first, second, strict=True))
    rows = [[counts[down, across] for across in names] for down in names]
    return pd.DataFrame(rows, index=names, columns=names)


def disagreements(
    verdicts: Mapping[str, Sequence[Verdict]], answers: Sequence[Answer]
) -> list[Disagreement]:
    """The answers on which not all scorers say the same, in order.

    Raises:
        InputError: a scorer judged another number of answers.
    """
    for some in verdicts.values():
        _require_as_many(some, answers)
    found = []
    for index, answer in enumerate(answers):
        said = {name: some[index] for name, some in verdicts.items()}
        if len(set(said.values())) > 1:
            found.append(Disagreement(index, answer, said))
    return found


def _require_as_many(one: Sequence[Verdict], other: Sequence[Verdict] | Sequence[Answer]) -> None:
    if len(one) != len(other):
        raise InputError(
            f"scorers are compared on the same answers; there are {len(one)} verdicts and "
            f"{len(other)} others."
        )
