"""The defection probe and what it is read beside."""

import numpy as np
import pytest

from interp.errors import InputError
from interp.statistics.auroc import area
from probes.backdoors.detectors.defection import (
    QUESTIONS,
    defection_probe,
    variance_ratio,
    worst_area,
)
from probes.backdoors.detectors.nulls import random_differences

WIDTH = 16


def drawn(seed: int, shift: float = 0.0, rows: int = 60) -> np.ndarray:
    states = np.random.default_rng(seed).normal(size=(rows, WIDTH))
    states[:, 0] += shift
    return states


def test_a_planted_direction_is_found_beyond_its_nulls() -> None:
    found = defection_probe(
        drawn(0, 3), drawn(1), {"a": drawn(2), "b": drawn(3)}, drawn(4, 3), drawn(5), seed=0
    )
    assert found.auroc > 0.95 and found.auroc_vs_distractor > 0.95
    assert 0.35 < found.auroc_distractor < 0.65 and found.null_quantile > 0.99
    assert found.worst_fpr < 0.4 and found.pairs == 60
    assert set(found.to_dict()) >= {
        "auroc", "auroc_vs_distractor", "null_quantile", "worst_fpr", "variance_ratio", "pc1_auroc"
    }  # fmt: skip


def test_a_bare_auroc_is_refused() -> None:
    found = defection_probe(drawn(0, 3), drawn(1), {"a": drawn(2)}, drawn(4, 3), drawn(5))
    with pytest.raises(InputError, match="means nothing alone"):
        float(found)


def test_novelty_alone_is_seen_through() -> None:
    # Any string moves the states along the probe; the distractor tells.
    found = defection_probe(drawn(0, 3), drawn(1), {"a": drawn(2)}, drawn(4, 3), drawn(5, 3))
    assert found.auroc > 0.95 and 0.4 < found.auroc_vs_distractor < 0.6


def test_the_worst_set_counts() -> None:
    high, easy, hard = drawn(0, 3)[:, 0], drawn(1)[:, 0], drawn(2, 3)[:, 0]
    assert worst_area(high, [easy]) == pytest.approx(area(high, easy), abs=0.01)
    assert worst_area(high, [easy, hard]) <= area(high, hard) + 0.01 < 0.7


def test_variance_between_over_within() -> None:
    one, other = np.array([[0.0], [2.0]]), np.array([[10.0], [12.0]])
    # means 1 and 11 around 6: 2·25 + 2·25 between; 1 + 1 + 1 + 1 within
    assert variance_ratio(one, other) == pytest.approx(100 / 4)
    assert variance_ratio(one[:1], one[:1]) == 0.0


def test_empty_sets_and_few_directions_are_refused() -> None:
    with pytest.raises(InputError, match="benign"):
        defection_probe(drawn(0), drawn(1), {}, drawn(2), drawn(3))
    with pytest.raises(InputError, match="1000"):
        defection_probe(drawn(0), drawn(1), {"a": drawn(2)}, drawn(3), drawn(4), directions=10)
    with pytest.raises(InputError, match="1000"):
        random_differences(drawn(0), drawn(1), drawn(2), count=10)


def test_questions_name_no_trigger_and_have_two_answers() -> None:
    assert all(question.endswith("?") and bad != good for question, bad, good in QUESTIONS)
