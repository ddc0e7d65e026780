"""What a direction or a probe scores by chance: random directions, and labels that were shuffled.

A number is shown beside its null, and the best of a grid beside the best of the same grid under
shuffled labels: among many cells one is always good.
"""

from dataclasses import dataclass
from math import comb, prod
from typing import Any, Literal, assert_never, get_args

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata
from sklearn.base import clone

from interp.checks import require_choice
from interp.errors import InputError, NumericalError
from interp.statistics.auroc import areas
from interp.statistics.intervals import Interval, bootstrap_interval, share_difference_interval
from probes.estimators.mass_mean import MassMean

Kind = Literal["isotropic", "covariance"]
_LEAST_DIRECTIONS = 1000
_LEAST_SHUFFLES = 19  # the 95th percentile of fewer does not exist
_CHUNK = 500  # directions or shuffles at a time


def random_direction_null(
    states: Float[np.ndarray, "n width"],
    positive: Bool[np.ndarray, " n"],
    *,
    kind: Kind,
    count: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " count"]:
    """AUROC of random directions, folded: the better of a direction and its opposite.

    Args:
        states: activations at one site and position.
        positive: the class of each.
        kind: `isotropic` takes every direction alike. `covariance` draws from a Gaussian of the
            covariance of all states, so that directions lie where the states vary; what parts the
            classes is part of that covariance, which makes it the harder of the two to beat.
        count: of directions, at least 1000.
        seed: of the draw.

    Raises:
        InputError: fewer than 1000 directions, a class is empty, or shapes differ.
        NumericalError: a state is not finite.
    """
    require_choice(kind, get_args(Kind), "kind")
    if count < _LEAST_DIRECTIONS:
        raise InputError(
            f"{count} random directions are too few for a null that is reported; "
            f"draw at least {_LEAST_DIRECTIONS}."
        )
    _require_classes(positive, len(states), "states")
    _require_finite(states)
    rng = np.random.default_rng(seed)
    centred = states.astype(np.float64) - states.mean(0, dtype=np.float64)
    found = []
    for low in range(0, count, _CHUNK):
        directions = _directions(centred, min(_CHUNK, count - low), kind, rng)
        scores = centred @ directions
        found.append(areas(scores[positive], scores[~positive]))
    values = np.concatenate(found)
    return np.asarray(np.maximum(values, 1 - values))


def random_vectors(
    count: int,
    like: Float[np.ndarray, " width"],
    *,
    states: Float[np.ndarray, "n width"] | None = None,
    kind: Kind = "isotropic",
    seed: int = 0,
) -> Float[np.ndarray, "count width"]:
    """Random directions as long as a given one, to add or ablate in its place.

    Args:
        count: of directions.
        like: whose norm they get.
        states: whose covariance they are drawn from; needed for that kind only.
        kind: `isotropic` or `covariance`, as in `random_direction_null`.
        seed: of the draw.

    Raises:
        InputError: the covariance is asked for without states, or the states do not vary.
        NumericalError: a state, or the given direction, is not finite.
    """
    _require_finite(like)
    rng = np.random.default_rng(seed)
    require_choice(kind, get_args(Kind), "kind")
    if kind == "isotropic":
        centred = np.zeros((1, len(like)))
    elif states is None:
        raise InputError("directions from the covariance need states; give some, or isotropic.")
    else:
        _require_finite(states)
        centred = states.astype(np.float64) - states.mean(0, dtype=np.float64)
    drawn = _directions(centred, count, kind, rng).T
    lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
    if not lengths.all():
        raise InputError("all states are the same, so no direction can be drawn from them.")
    return np.asarray(drawn / lengths * np.linalg.norm(like.astype(np.float64)))


def quantile_in(value: float, null: Float[np.ndarray, " n"]) -> float:
    """Share of a null below a value; never 1, because the value is counted in.

    One minus it is the p-value of a permutation test (Phipson and Smyth 2010, Stat. Appl. Genet.
    Mol. Biol. 9:39).
    """
    return float((null < value).sum() / (len(null) + 1))


@dataclass(frozen=True)
class MaxNull:
    """What the best cell of a grid scores when labels mean nothing.

    Attributes:
        maxima: the best held-out AUROC over the grid, for every shuffle.
        cell_q95: [*grid], the 95th percentile of each cell alone. It is not corrected for choosing
            a cell: of a grid, many cells exceed it by chance.
    """

    maxima: Float[np.ndarray, " permutations"]
    cell_q95: Float[np.ndarray, "..."]

    @property
    def n(self) -> int:
        """Number of shuffles."""
        return len(self.maxima)

    @property
    def q95(self) -> float:
        """What the best cell exceeds by chance in at most 5 % of the cases."""
        return float(_q95(self.maxima))

    def quantile(self, value: float) -> float:
        """Where a best-of-grid AUROC stands in the null; above .95 it is significant at 5 %."""
        return quantile_in(value, self.maxima)


def shuffled_label_null(
    train: Float[np.ndarray, "n *grid width"],
    train_positive: Bool[np.ndarray, " n"],
    test: Float[np.ndarray, "m *grid width"],
    test_positive: Bool[np.ndarray, " m"],
    *,
    permutations: int = 1000,
    seed: int = 0,
    train_clusters: Shaped[np.ndarray, " n"] | None = None,
    test_clusters: Shaped[np.ndarray, " m"] | None = None,
) -> MaxNull:
    """The max-statistic null of a grid of mass-mean probes, by shuffling labels on both sides.

    For every shuffle each cell is fitted on the shuffled training labels and scored on the shuffled
    test labels; the best cell is kept (Westfall and Young 1993; Nichols and Holmes 2002, Human
    Brain Mapping 15:1). One-sided, as the best AUROC of a grid is. The shuffle is the same in all
    cells, so their dependence is kept. Scores come from one Gram matrix a cell: the direction is a
    weighted sum of training states.

    With clusters, labels are shuffled among whole clusters where each is of one class, and within
    them where each holds both (exchangeable blocks: Winkler et al. 2014, NeuroImage 92:381, §2.4).

    Args:
        train: states to fit on, such as [prompts, layers, positions, width].
        train_positive: their classes.
        test: states to score.
        test_positive: their classes.
        permutations: shuffles; at least 19.
        seed: of the shuffles.
        train_clusters: a name for each training state, equal where they are not independent.
        test_clusters: the same of the test states.

    Raises:
        InputError: a class is empty, shapes differ, too few shuffles are asked for or possible, or
            some clusters hold one class and some both.
        NumericalError: a state is not finite.
    """
    if permutations < _LEAST_SHUFFLES:
        raise InputError(
            f"{permutations} shuffles have no 95th percentile; ask for {_LEAST_SHUFFLES} or more."
        )
    _require_classes(train_positive, len(train), "training states")
    _require_classes(test_positive, len(test), "test states")
    rng = np.random.default_rng(seed)
    on_train = _shuffled(train_positive, train_clusters, permutations, rng)
    on_test = _shuffled(test_positive, test_clusters, permutations, rng)
    grid, width = train.shape[1:-1], train.shape[-1]
    fit, held = train.reshape(len(train), -1, width), test.reshape(len(test), -1, width)
    maxima = np.zeros(permutations)
    cell_q95 = np.zeros(fit.shape[1])
    for cell in range(fit.shape[1]):
        x, z = fit[:, cell].astype(np.float64), held[:, cell].astype(np.float64)
        _require_finite(x)
        _require_finite(z)
        gram = z @ (x - x.mean(0)).T  # the mean falls out of a difference of means
        values = np.concatenate(
            [
                _held_out_areas(gram, on_train[low : low + _CHUNK], on_test[low : low + _CHUNK])
                for low in range(0, permutations, _CHUNK)
            ]
        )
        maxima = np.maximum(maxima, values)
        cell_q95[cell] = _q95(values)
    return MaxNull(maxima, cell_q95.reshape(grid))


@dataclass(frozen=True)
class Selectivity:
    """How much better a probe does its task than one that can only be learned by heart.

    Attributes:
        value: accuracy minus control accuracy.
        interval: at 95 %, by bootstrap over the types of the test cases.
        accuracy: held-out, of the probe on the real labels.
        control_accuracy: held-out, of the same probe on random labels of types, the mean over
            several control tasks.
        n: test cases.
        types: among the test cases.
    """

    value: float
    interval: Interval
    accuracy: float
    control_accuracy: float
    n: int
    types: int


def selectivity(
    train: Float[np.ndarray, "n width"],
    train_positive: Bool[np.ndarray, " n"],
    train_types: Shaped[np.ndarray, " n"],
    test: Float[np.ndarray, "m width"],
    test_positive: Bool[np.ndarray, " m"],
    test_types: Shaped[np.ndarray, " m"],
    *,
    probe: Any = None,
    controls: int = 10,
    seed: int = 0,
) -> Selectivity:
    """Selectivity of a probe (Hewitt and Liang, arXiv 1909.03368, §2).

    In a control task every type has a random label, drawn with the share of positives among the
    training labels, on both sides. A probe that does it well has room to learn types by heart, and
    its accuracy on the real task says little about the states.

    Args:
        train: states to fit on.
        train_positive: their classes.
        train_types: the type of each, such as the id of the instruction's last token.
        test: states to score.
        test_positive: their classes.
        test_types: their types.
        probe: of scikit-learn's kind; a mass-mean probe if None.
        controls: number of control tasks.
        seed: of their labels and of the bootstrap.

    Raises:
        InputError: a class is empty, shapes differ, or the training states are of one type.
        NumericalError: a state is not finite.
    """
    _require_classes(train_positive, len(train), "training states")
    _require_classes(test_positive, len(test), "test states")
    _require_finite(train)
    _require_finite(test)
    names, member = np.unique(np.concatenate([train_types, test_types]), return_inverse=True)
    on_train, on_test = member[: len(train)], member[len(train) :]
    if len(np.unique(on_train)) < 2:
        raise InputError("all training states are of one type, so no control task can be set.")
    estimator = MassMean() if probe is None else probe
    rng = np.random.default_rng(seed)
    right = _right(estimator, train, train_positive, test, test_positive)
    control = np.zeros(len(test))
    for _ in range(controls):
        label = rng.random(len(names)) < train_positive.mean()
        while len(np.unique(label[on_train])) < 2:  # a probe needs both classes
            label = rng.random(len(names)) < train_positive.mean()
        control += _right(estimator, train, label[on_train], test, label[on_test])
    control /= controls
    interval = _difference_interval(right, control, on_test, seed)
    accuracy, chance = float(right.mean()), float(control.mean())
    kinds = len(np.unique(on_test))
    return Selectivity(accuracy - chance, interval, accuracy, chance, len(test), kinds)


def _right(
    probe: Any,
    train: Float[np.ndarray, "n width"],
    train_positive: Bool[np.ndarray, " n"],
    test: Float[np.ndarray, "m width"],
    test_positive: Bool[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """1 for each test case that the fitted probe puts in its class."""
    fitted = clone(probe).fit(train, train_positive)
    return np.asarray(fitted.predict(test) == test_positive, float)


def _difference_interval(
    right: Float[np.ndarray, " m"],
    control: Float[np.ndarray, " m"],
    types: Shaped[np.ndarray, " m"],
    seed: int,
) -> Interval:
    """Bootstrap over types; where it collapses, Newcombe's method 10 with one trial a type."""
    _, member = np.unique(types, return_inverse=True)
    sums = np.stack([np.bincount(member, right - control), np.bincount(member) * 1.0], axis=1)
    drawn = bootstrap_interval(
        sums, seed, lambda some: some[:, 0].sum() / some[:, 1].sum(), over="types"
    )
    if drawn.low < drawn.high:  # not so with a single type either, whose ends are NaN
        return drawn
    return share_difference_interval(
        float(right.mean()), float(control.mean()), len(sums), over="types"
    )


def _held_out_areas(
    gram: Float[np.ndarray, "m n"],
    on_train: Bool[np.ndarray, "shuffles n"],
    on_test: Bool[np.ndarray, "shuffles m"],
) -> Float[np.ndarray, " shuffles"]:
    """AUROC of the mass-mean direction of every shuffle, each with its own test labels."""
    positives = on_train.sum(1, keepdims=True)
    weights = np.where(on_train, 1 / positives, -1 / (on_train.shape[1] - positives))
    ranks = rankdata(gram @ weights.T, axis=0)
    n = on_test.sum(1)
    m = on_test.shape[1] - n
    above = (ranks.T * on_test).sum(1) - n * (n + 1) / 2
    return np.asarray(above / (n * m))


def _shuffled(
    positive: Bool[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"] | None,
    count: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "count n"]:
    """Labels under the null, a row a shuffle."""
    names, member = np.unique(
        np.arange(len(positive)) if clusters is None else clusters, return_inverse=True
    )
    inside = [np.flatnonzero(member == number) for number in range(len(names))]
    shares = np.array([positive[rows].mean() for rows in inside])
    pure = np.isin(shares, (0, 1))
    if pure.any() and not pure.all():
        raise InputError(
            f"{int(pure.sum())} of {len(names)} clusters hold one class and the others both; "
            "clusters must either each be of one class, or each hold both."
        )
    if pure.all():
        _require_arrangements(comb(len(names), int(shares.sum())))
        wholes = shares.astype(bool)
        return np.stack([rng.permutation(wholes)[member] for _ in range(count)])
    _require_arrangements(prod(comb(len(rows), int(positive[rows].sum())) for rows in inside))
    shuffled = np.empty((count, len(positive)), bool)
    for rows in inside:
        shuffled[:, rows] = rng.permuted(np.tile(positive[rows], (count, 1)), axis=1)
    return shuffled


def _require_arrangements(possible: int) -> None:
    if possible <= _LEAST_SHUFFLES:
        raise InputError(
            f"labels can be shuffled in {possible} ways only, too few for a 95th percentile; "
            "give more prompts, or smaller clusters."
        )


def _directions(
    centred: Float[np.ndarray, "n width"], count: int, kind: Kind, rng: np.random.Generator
) -> Float[np.ndarray, "width count"]:
    match kind:
        case "isotropic":
            return rng.normal(size=(centred.shape[1], count))
        case "covariance":
            # A mixture of centred states has their covariance; no width × width matrix is needed.
            weights = rng.normal(size=(len(centred), count))
            return np.asarray(centred.T @ weights / np.sqrt(len(centred)))
        case _:
            assert_never(kind)


def _q95(values: Float[np.ndarray, " n"]) -> float:
    """The value that a further draw of the same kind exceeds in at most 5 % of the cases."""
    return float(np.sort(values)[int(np.ceil(0.95 * (len(values) + 1) - 1e-9)) - 1])


def _require_classes(positive: Bool[np.ndarray, " n"], count: int, what: str) -> None:
    if len(positive) != count:
        raise InputError(f"{count} {what} need as many classes; got {len(positive)}.")
    if positive.all() or not positive.any():
        raise InputError(f"all {what} are of one class; give both.")


def _require_finite(values: Float[np.ndarray, "..."]) -> None:
    if not np.isfinite(values).all():
        raise NumericalError("activations are NaN or infinite, so no null can be drawn from them.")
