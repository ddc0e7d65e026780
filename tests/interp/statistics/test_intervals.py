import ast
import copy
import json
import pickle
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from interp.statistics.intervals import (
    AUROC,
    PAIRED,
    SHARE,
    Interval,
    Method,
    auroc_interval,
    bootstrap,
    bootstrap_interval,
    caption,
    delong_interval,
    difference_interval,
    group_auroc_interval,
    mean_interval,
    paired_interval,
    share_difference_interval,
    share_interval,
    square_and_add,
    wilson,
)

ANALYSES = Path(__file__).parents[3] / "analyses"
TRIALS = 2000


def _coverage(draw: str, sequences: int) -> float:
    """How often the interval of a mean holds the truth; every column is a trial."""
    generator = np.random.default_rng(3)
    if draw == "normal":
        truth, values = 1.7, generator.normal(1.7, 2.0, (sequences, TRIALS))
    else:
        truth, values = 0.2, generator.beta(2.0, 8.0, (sequences, TRIALS))
    low, high = bootstrap(values, seed=0)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("draw", ["normal", "beta"])
def test_nineteen_of_twenty_intervals_hold_the_truth(draw: str) -> None:
    assert 0.92 <= _coverage(draw, 50) <= 0.97


def test_few_sequences_cover_less_but_not_nothing() -> None:
    assert 0.85 <= _coverage("normal", 8) <= 0.93


def test_the_fast_mean_is_the_resampled_mean() -> None:
    """Multinomial weights and gathered rows are two ways to the same distribution."""
    values = np.random.default_rng(0).normal(size=(40, 3))
    fast = bootstrap(values, 1)
    slow = bootstrap(values, 1, lambda sample: sample.mean(0))
    assert np.allclose(fast, slow, atol=0.05)
    assert fast[0].shape == fast[1].shape == (3,)
    spread = values.std(0) / np.sqrt(40)
    assert np.allclose(fast[1] - fast[0], 2 * 1.96 * spread, rtol=0.1)


def test_columns_are_resampled_together() -> None:
    column = np.random.default_rng(0).normal(size=20)
    low, high = bootstrap(np.stack([column, column + 5], 1), 7)
    assert low[1] - low[0] == pytest.approx(5)
    assert high[1] - high[0] == pytest.approx(5)


def test_a_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=(10,))
    assert bootstrap(values, 1) == bootstrap(values, 1) != bootstrap(values, 2)


def test_one_sequence_tells_no_spread() -> None:
    low, high = bootstrap(np.ones((1, 4)), 0)
    assert np.isnan(low).all() and np.isnan(high).all() and low.shape == (4,)
    assert mean_interval(np.ones(1), 0) is None
    assert share_interval(np.ones(1), 0) is None


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Worked by hand from Wilson (1927); 5 of 10 is in most textbooks.
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 10, 0.0178762, 0.4041500),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2552885, 0.3662096),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(float(successes), n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_agreement_of_all_sequences_leaves_room(share: float) -> None:
    interval = share_interval(np.full(20, share), 0)
    assert interval is not None
    assert interval[0] <= share <= interval[1]
    assert interval[1] - interval[0] > 0.1


def test_shares_between_are_bootstrapped() -> None:
    shares = np.random.default_rng(0).beta(2, 3, 30)
    assert share_interval(shares, 4) == mean_interval(shares, 4)


@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.9, 0.99, 1.0])
def test_an_auroc_interval_holds_its_area_and_never_collapses(area: float) -> None:
    low, high = auroc_interval(area, 20, 30)
    assert 0.0 <= low <= area <= high <= 1.0
    assert high - low > 0.02
    wider = auroc_interval(area, 10, 15)
    assert wider[0] <= low and wider[1] >= high
    mirrored = auroc_interval(1 - area, 20, 30)
    assert mirrored[0] == pytest.approx(1 - high, abs=1e-6)


def test_an_auroc_interval_covers() -> None:
    """Binormal scores of a known area; Newcombe reports coverage near 95 % for method 5."""
    generator = np.random.default_rng(0)
    truth = float(norm.cdf(1.5 / np.sqrt(2)))
    hits = 0
    for _ in range(1000):
        negative, positive = generator.normal(size=20), generator.normal(1.5, size=20)
        area = float((positive[:, None] > negative[None]).mean())
        low, high = auroc_interval(area, 20, 20)
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.98


def test_differences_that_all_agree_have_an_interval_that_does_not_collapse() -> None:
    low, high = paired_interval(np.ones(40), 0, most=2.0) or (0.0, 0.0)
    assert (1 - low, high - 1) == pytest.approx((wilson(0, 40)[1],) * 2)
    assert paired_interval(-np.ones(40), 0) == (-1.0, pytest.approx(-low))
    mixed = np.array([1.0] * 30 + [0.0] * 10)
    assert paired_interval(mixed, 0) == mean_interval(mixed, 0)
    assert paired_interval(np.ones(1), 0) is None


_CASE = np.arange(24)
_VALUES, _OTHERS = np.sin(_CASE.astype(float)), np.cos(np.arange(18.0)) / 2
_POSITIVE = _CASE % 3 == 0
_SCORES = np.sin(1.7 * _CASE) + _POSITIVE
_PAIRS = np.stack(
    [np.bincount(_CASE // 2, _POSITIVE - _VALUES**2), np.bincount(_CASE // 2) * 1.0], axis=1
)


@pytest.mark.parametrize(
    ("found", "method", "ends"),
    [
        (mean_interval(_VALUES, 5), Method.BOOTSTRAP, (-0.23400187399983374, 0.3199503189785292)),
        (
            bootstrap_interval(_VALUES, 5, lambda drawn: drawn.std(0)),
            Method.BOOTSTRAP,
            (0.5638141716640311, 0.7872386095218623),
        ),
        (
            bootstrap_interval(_PAIRS, 5, lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum()),
            Method.BOOTSTRAP,
            (-0.35289848009679053, 0.032699850684611065),
        ),
        (
            share_interval(_VALUES**2, 5),
            Method.BOOTSTRAP,
            (0.3405518361434255, 0.6325074505174172),
        ),
        (share_interval(np.ones(24), 5), Method.WILSON, (0.8620237953250198, 1.0)),
        (
            paired_interval(np.sign(_VALUES), 5),
            Method.BOOTSTRAP,
            (-0.33333333333333337, 0.41666666666666674),
        ),
        (
            paired_interval(np.ones(24), 5, most=2.0),
            Method.AGREEING_DIFFERENCES,
            (0.8620237953250198, 1.1379762046749802),
        ),
        (
            difference_interval(_VALUES, _OTHERS, 5),
            Method.TWO_SAMPLE_BOOTSTRAP,
            (-0.258863702165386, 0.3768007489125488),
        ),
        (wilson(7, 24), Method.WILSON, (0.14914648196960875, 0.49167693664496637)),
        (
            auroc_interval(0.9, 16, 8),
            Method.NEWCOMBE_AUROC,
            (0.6669111996740822, 0.9728962249470287),
        ),
        (
            delong_interval(_SCORES[_POSITIVE], _SCORES[~_POSITIVE]),
            Method.DELONG,
            (0.4756226075279233, 0.9084464186308321),
        ),
        (
            group_auroc_interval(_SCORES, _POSITIVE, _CASE // 2, 5),
            Method.BOOTSTRAP,
            (0.5, 0.9333796296296294),
        ),
        (
            group_auroc_interval(_POSITIVE * 1.0, _POSITIVE, _CASE // 2, 5),
            Method.NEWCOMBE_AUROC,
            (0.7929834183827364, 1.0),
        ),
        (
            share_difference_interval(1 / 3, float((_VALUES**2).mean()), 1),
            Method.NEWCOMBE_DIFFERENCE,
            (-0.7040236761362653, 0.5648075839407802),
        ),
    ],
)
def test_the_same_numbers_as_before_every_method_had_one_home(
    found: Interval, method: Method, ends: tuple[float, float]
) -> None:
    """Worked by the code that each of them stood in by itself: same draws, in the same order."""
    assert found == pytest.approx(ends, rel=1e-12)
    assert found.method is method


def test_a_difference_of_independent_estimates() -> None:
    low, high = square_and_add(0.5, (0.2, 0.9), 0.1, (0.06, 0.5))
    assert (low, high) == pytest.approx((0.4 - 0.5, 0.4 + np.hypot(0.4, 0.04)))
    alone = square_and_add(0.5, (0.2, 0.9), 0.1, (0.1, 0.1))
    assert alone == pytest.approx((0.1, 0.8)) and alone.method is Method.SQUARE_AND_ADD


def test_one_case_of_a_side_tells_no_difference() -> None:
    assert difference_interval(np.ones(1), np.ones(5), 0) is None
    assert np.isnan(bootstrap_interval(np.ones(1), 0)).all()


def test_scores_that_are_tied_or_alone_have_newcombes_interval() -> None:
    tied = delong_interval(np.ones(20), np.ones(30))
    assert tied == auroc_interval(0.5, 30, 20) and tied.method is Method.NEWCOMBE_AUROC
    alone = delong_interval(np.array([1.0]), np.array([0.0, 2.0, 3.0]))
    assert alone == auroc_interval(1 / 3, 3, 1) and alone.method is Method.NEWCOMBE_AUROC


def test_an_interval_is_a_pair_that_knows_its_method() -> None:
    found = wilson(5, 10, "prompts")
    low, high = found
    assert (found.low, found.high) == (low, high) == found and isinstance(found, Interval)
    assert (found.method, found.over) == (Method.WILSON, "prompts")
    assert json.loads(json.dumps(found)) == [low, high] == list(found)
    with pytest.raises(AttributeError):
        found.over = "sequences"  # type: ignore[misc]
    copies = [copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))]
    for same in copies:
        assert same == found and isinstance(same, Interval)
        assert same.method is Method.WILSON and same.caption == found.caption


def test_a_dataclass_that_holds_an_interval_turns_into_json() -> None:
    @dataclass(frozen=True)
    class Rate:
        interval: Interval

    found = asdict(Rate(wilson(5, 10)))["interval"]
    assert found == wilson(5, 10) and type(found) is tuple


def test_an_interval_writes_its_own_caption() -> None:
    assert wilson(5, 10, "prompts").caption == "95 % Wilson score interval over prompts"
    drawn = mean_interval(_VALUES, 0, "sequences")
    assert drawn is not None
    assert drawn.caption == "95 % percentile bootstrap interval over sequences (2,000 resamples)"
    assert auroc_interval(1.0, 9, 9).caption == "95 % interval (Newcombe 2006, method 5)"


def test_a_caption_says_what_stands_in() -> None:
    assert caption(Method.WILSON, over="tasks") == "95 % Wilson score intervals over tasks"
    assert caption(*SHARE, over="tasks") == (
        "95 % percentile bootstrap intervals over tasks (2,000 resamples), replaced where they "
        "would have no width by Wilson score intervals over tasks"
    )
    assert caption(*PAIRED, over="tasks").endswith(
        "by intervals by Wilson's upper bound for none of n tasks"
    )
    assert caption(*AUROC, over="tasks") == (
        "95 % DeLong intervals on the logit scale, replaced where they would have no width by "
        "intervals (Newcombe 2006, method 5)"
    )


@pytest.mark.parametrize("method", Method)
def test_every_method_has_a_caption_and_a_citation(method: Method) -> None:
    one, many = Interval((0.0, 1.0), method, "prompts").caption, caption(method, over="prompts")
    assert one.replace("interval", "intervals", 1) == many and "{" not in many
    assert re.search(r"\b(18|19|20)\d\d\b", method.citation)


_METHODS = re.compile(r"wilson|newcombe|delong|zou and donner|bootstrap", re.IGNORECASE)
_NO_INTERVAL = ("chosen in bootstrap", "of bootstrap resamples", "Of the bootstrap and the noise.")


def _named_by_hand(source: str) -> list[str]:
    """Strings of a module, docstrings apart, that name an interval's method."""
    tree = ast.parse(source)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            text = "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = "" if id(node) in bare | inside else node.value
        else:
            continue
        for allowed in _NO_INTERVAL:
            text = text.replace(allowed, "")
        if _METHODS.search(text):
            found.append(text)
    return found


def test_no_figure_names_a_method_by_hand() -> None:
    """Methods name themselves, so that a change of method changes every caption."""
    files = sorted(ANALYSES.rglob("*.py"))
    assert len(files) > 50
    named = [text for file in files for text in _named_by_hand(file.read_text("utf-8"))]
    assert not named, "write `interp.statistics.intervals.caption(…)` in place of the method's name"


def test_a_name_by_hand_is_found() -> None:
    assert _named_by_hand('text = f"{n} prompts, with 95 % Wilson intervals"')
    assert _named_by_hand('text = "by bootstrap over " "prompts"')
    assert not _named_by_hand('"""Wilson\'s."""\nx = f"{caption(Method.WILSON, over=\'prompts\')}"')
