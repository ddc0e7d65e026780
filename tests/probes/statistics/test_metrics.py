"""Metrics: known answers, coverage of the intervals, and numbers that are refused."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.errors import InputError, NumericalError
from interp.statistics.auroc import area
from probes.statistics.metrics import auroc, operating_point, threshold_for_fpr, tpr_at_fpr


def cases(n: int, m: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(shift, 1, n), rng.normal(0, 1, m)]
    return scores, np.r_[np.ones(n, bool), np.zeros(m, bool)]


def slow_delong_variance(scores: np.ndarray, positive: np.ndarray) -> float:
    """By the definition, over all pairs."""
    high, low = scores[positive], scores[~positive]
    pairs = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    return float(pairs.mean(1).var(ddof=1) / len(high) + pairs.mean(0).var(ddof=1) / len(low))


@pytest.mark.parametrize("ties", [False, True])
def test_delong_equals_the_definition(ties: bool) -> None:
    scores, positive = cases(40, 60, 0.8, 0)
    scores = scores.round() if ties else scores
    result = auroc(scores, positive)
    assert result.value == pytest.approx(roc_auc_score(positive, scores))
    assert (result.method, result.positives, result.negatives) == ("DeLong", 40, 60)
    spread = 1.959964 * np.sqrt(slow_delong_variance(scores, positive))
    logit = np.log(result.value / (1 - result.value))
    half = spread / (result.value * (1 - result.value))
    expected = 1 / (1 + np.exp(-np.array([logit - half, logit + half])))
    assert result.interval == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.5), (1.0, 0.76025), (2.5, 0.96145)])
def test_the_interval_covers(shift: float, truth: float) -> None:
    """Φ(shift / √2) is the true area of two unit normals."""
    runs = [auroc(*cases(40, 40, shift, seed)).interval for seed in range(400)]
    assert 0.92 <= np.mean([low <= truth <= high for low, high in runs]) <= 0.985


def test_at_the_edge_the_interval_does_not_collapse() -> None:
    scores, positive = cases(20, 20, 50.0, 0)
    for sign, value in ((1, 1.0), (-1, 0.0)):
        result = auroc(sign * scores, positive)
        assert result.value == value and result.method == "Newcombe"
        assert result.interval[1] - result.interval[0] > 0.05


def test_tied_scores_have_an_interval_that_does_not_collapse() -> None:
    found = auroc(np.zeros(30), np.arange(30) < 12)
    assert found.value == 0.5
    assert found.interval[0] < 0.4 < 0.6 < found.interval[1]


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    template = np.repeat(np.arange(20), 10)
    # Whole templates of one class: the template decides, so there are 20 cases and not 200.
    by_template = np.arange(20) % 2 == 0
    positive = by_template[template]
    scores = positive + 2 * rng.normal(size=20)[template] + 0.1 * rng.normal(size=200)
    alone, clustered = auroc(scores, positive), auroc(scores, positive, clusters=template)
    widths = [r.interval[1] - r.interval[0] for r in (alone, clustered)]
    assert clustered.method == "clusters" and widths[1] > 1.5 * widths[0]
    assert clustered == auroc(scores, positive, clusters=template)


def test_resampled_clusters_equal_a_loop_over_gathered_cases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    cluster = rng.integers(12, size=90)
    positive = rng.random(90) < 0.4
    scores = np.round(rng.normal(size=90) + positive, 1)  # with ties
    fast = auroc(scores, positive, clusters=cluster, seed=5).interval
    rows = [np.flatnonzero(cluster == number) for number in range(12)]
    draws, areas = np.random.default_rng(5), []
    for _ in range(2000):
        chosen = np.concatenate([rows[i] for i in draws.integers(12, size=12)])
        side = positive[chosen]
        areas.append(area(scores[chosen][side], scores[chosen][~side]))
    assert fast == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])), abs=1e-12)
    monkeypatch.setattr("interp.statistics.auroc._WEIGHTS", 700)
    assert auroc(scores, positive, clusters=cluster, seed=5).interval == fast


def test_clusters_at_the_edge() -> None:
    scores, positive = np.r_[np.ones(40), np.zeros(40)], np.repeat([True, False], 40)
    few = auroc(scores, positive, clusters=np.repeat(np.arange(4), 20))
    many = auroc(scores, positive)
    assert few.value == 1.0 and few.interval[0] < many.interval[0] < 1


def test_thresholds_let_no_more_through_than_asked() -> None:
    rng = np.random.default_rng(1)
    negatives = rng.normal(size=1000)
    for fpr in (0.01, 0.05, 0.5):
        threshold = threshold_for_fpr(negatives, fpr)
        assert (negatives > threshold).mean() == pytest.approx(fpr, abs=1e-12)
        assert (negatives >= threshold).mean() > fpr
    tied = np.r_[np.zeros(990), np.ones(10)]
    assert threshold_for_fpr(tied, 0.005) == 1.0  # one step lower would let 1 % through
    assert threshold_for_fpr(tied, 0.01) == 0.0


def test_operating_points() -> None:
    scores = np.r_[np.full(300, 0.0), np.linspace(0, 1, 101)]
    positive = np.r_[np.zeros(300, bool), np.ones(101, bool)]
    point = tpr_at_fpr(scores, positive, 0.01)
    assert point.threshold == 0.0 and point.fpr == 0.0 and point.tpr == pytest.approx(100 / 101)
    assert point.fpr_interval[0] == 0 and 0.01 < point.fpr_interval[1] < 0.013
    assert (point.negatives, point.positives) == (300, 101)
    benign = operating_point(scores[:300], positive[:300], 0.5)
    assert benign.tpr is None and benign.tpr_interval is None and benign.fpr == 0.0


@pytest.mark.parametrize(
    ("fpr", "negatives", "said"),
    [
        (0.01, 299, "needs at least 300 negatives"),
        (0.001, 2999, "needs at least 3000 negatives"),
        (0.0, 5000, "not between 0 and 1"),
        (1.0, 5000, "not between 0 and 1"),
    ],
)
def test_rates_that_cannot_be_shown_are_refused(fpr: float, negatives: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        threshold_for_fpr(np.zeros(negatives), fpr)
    assert threshold_for_fpr(np.zeros(300), 0.01) == 0.0


def test_bad_scores() -> None:
    scores, positive = cases(5, 5, 1.0, 0)
    with pytest.raises(InputError, match="one class is empty"):
        auroc(scores, np.ones(10, bool))
    scores[3] = np.nan
    with pytest.raises(NumericalError, match="1 scores are NaN"):
        auroc(scores, positive)
    with pytest.raises(NumericalError, match="NaN or infinite"):
        threshold_for_fpr(np.full(400, np.inf), 0.01)
    with pytest.raises(InputError, match="needs negatives"):
        operating_point(scores, np.ones(10, bool), 0.0)
