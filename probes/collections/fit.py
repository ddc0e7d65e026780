"""`fit_probe`: from a collection to a probe that is chosen on one side and tested on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from interp.checks import require_type
from interp.errors import InputError
from interp.statistics.auroc import area
from probes.collections.collection import Collection
from probes.collections.fitted_probe import FittedProbe, classes, metrics
from probes.estimators import linear
from probes.estimators.aggregation import AGGREGATORS, Aggregator, Last, Mean, aggregator
from probes.estimators.grid import ProbeGrid
from probes.estimators.stacking import StackedProbe, concatenated, folds
from probes.estimators.token_probe import TokenProbe
from probes.statistics.floors import last_token_floor, length_floor, lexical_floor
from probes.statistics.metrics import Auroc
from probes.statistics.nulls import shuffled_label_null

Layers = tuple[int | None, ...]


@dataclass(frozen=True)
class _Side:
    """Prompts of the training or the test side."""

    rows: Int[np.ndarray, " n"]
    positive: Bool[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"] | None


@dataclass(frozen=True)
class _Settings:
    """How to fit."""

    estimator: str
    aggregation: Aggregator
    stack: str
    k: int
    cv: int
    seed: int

    @property
    def pooled(self) -> bool:
        """Whether the aggregation of scores is the score of one aggregated state."""
        return isinstance(self.aggregation, (Mean, Last))


@dataclass(frozen=True)
class _Fit:
    """What was fitted: `coef` [layers, width, channels], and the AUROC by which it was chosen."""

    layers: Layers
    coef: Float[Tensor, "layers width channels"]
    intercept: Float[Tensor, " channels"]
    candidates: list[dict[str, Any]]


def fit_probe(
    collection: Collection,
    label: str,
    *,
    positive: str | None = None,
    layers: Sequence[int] | None = None,
    estimator: str = "logistic",
    aggregate: str | Aggregator | None = None,
    stack: str = "best",
    k: int = 5,
    test_sources: Sequence[str] = (),
    test_share: float = 0.25,
    groups: str | None = None,
    cv: int = 5,
    permutations: int = 500,
    seed: int = 0,
) -> FittedProbe:
    """Choose and fit a probe on the training side, and test it once on the other.

    Prompts that are equal but for case, marks and white space stay on one side. The null is
    `probes.nulls.shuffled_label_null`, the best held-out AUROC of all candidate layers (for
    `concat`, of all layers as one state); for a layer that was chosen without the test side it is
    on the safe side. Beside it stand the floors of `probes.floors`: what the words of the prompts,
    their number, and the id of the last token that is read tell of the test side.

    Args:
        collection: of activations.
        label: column with the classes.
        positive: the value that counts as positive; all others are negative. May be left out for
            0 and 1, false and true.
        layers: to choose from; all that were collected if None.
        estimator: `logistic`, `mass-mean`, `lda` or `ridge`.
        aggregate: from the scores of a prompt's tokens to one; needed where it has several. With
            `mean` and `last` any estimator and stack will do; the others are trained by token
            (`TokenProbe`), as logistic probes of the best layer.
        stack: `best` layer by cross-validated AUROC, `concat` of all layers, or `stacked`
            (`StackedProbe` over `k` layers).
        k: layers of a stacked probe.
        test_sources: sources that are held out.
        test_share: about the share of prompts that is held out, where no sources are.
        groups: column of prompts that are not independent, such as those of one template. None is
            parted between folds (or sides, where prompts are held out by share), and the interval
            draws them together.
        cv: number of folds.
        permutations: shuffles of the null; 0 leaves it out.
        seed: of split, folds and null.

    Raises:
        InputError: no such column, value, source or layer, a class that is empty on a side, too
            few prompts for the folds, or settings that do not go together.
        NumericalError: activations are NaN or infinite.
    """
    how_to = "open the folder with probes.collections.collection.Collection.open(folder)"
    require_type(collection, Collection, "collection", how_to)
    require_type(label, str, "label", "name a column of the collection's prompts")
    how = _Settings(estimator, _aggregation(collection, aggregate), stack, k, cv, seed)
    _require_settings(how)
    wanted = collection.layers if layers is None else tuple(layers)
    truth, positive = classes(collection.column(label), positive)
    member = None if groups is None else collection.column(groups)
    train, test = _sides(collection, truth, member, test_sources, test_share, seed)
    folds(train.positive, train.groups, cv, seed)  # refuses what could only fail later
    states = collection.states(wanted, how.aggregation.name) if how.pooled else None
    if states is None:
        fit = _fit_tokens(how, collection, train, wanted)
    else:
        fit = _fit_states(how, states, train, wanted)
    meta = {
        "origin": collection.meta["origin"],
        **{key: collection.meta[key] for key in ("site", "segment", "data")},
        **{"label": label, "positive": positive, "groups": groups, "seed": seed},
        **{"estimator": estimator, "stack": stack, "folds": cv, "candidates": fit.candidates},
        "train": _counts(train),
        "test": {"sources": list(test_sources), **_counts(test)},
    }
    keys = collection.prompt_keys()[train.rows]
    probe = FittedProbe(fit.coef, fit.intercept, fit.layers, how.aggregation, keys, meta)
    scores = probe.scores(collection)
    meta["threshold"] = _half_way(scores[train.rows], train.positive)
    found = metrics(scores[test.rows], test.positive, meta["threshold"], test.groups)
    if states is not None and stack == "concat":
        states = concatenated(states)[:, None]
    found["null"] = _null(states, train, test, found["auroc"], permutations, seed)
    found["floors"] = _floors(collection, train, test)
    return replace(probe, meta={**meta, "metrics": found})


def _aggregation(collection: Collection, wanted: str | Aggregator | None) -> Aggregator:
    if wanted is None and not collection.one_token:
        raise InputError(
            f"the segment {collection.segment} has several tokens in a prompt; say with "
            f"--aggregate (in Python aggregate=…) how their scores become one: "
            f"{', '.join(AGGREGATORS)}."
        )
    if wanted is None:
        return Last()
    return wanted if isinstance(wanted, Aggregator) else aggregator(wanted)


def _require_settings(how: _Settings) -> None:
    linear.estimator(how.estimator)  # refuses unknown names
    if how.stack not in ("best", "concat", "stacked"):
        raise InputError(f"there is no stack {how.stack!r}; there are best, concat, stacked.")
    if not how.pooled and (how.estimator, how.stack) != ("logistic", "best"):
        raise InputError(
            f"{how.aggregation.name} goes with the logistic estimator at the best layer only; "
            "leave --estimator and --stack out, or aggregate by mean or last."
        )
    if how.stack == "stacked" and how.estimator != "logistic":
        raise InputError("a stacked probe is logistic; leave --estimator out.")
    if how.cv < 2:
        raise InputError(f"{how.cv} folds do not cross-validate; ask for 2 or more.")


def _sides(
    collection: Collection,
    truth: Bool[np.ndarray, " n"],
    member: Shaped[np.ndarray, " n"] | None,
    test_sources: Sequence[str],
    test_share: float,
    seed: int,
) -> tuple[_Side, _Side]:
    """Training and test side; equal prompts are never on both."""
    keys = collection.prompt_keys()
    if test_sources:
        sources = collection.column("source")
        known = dict.fromkeys(sources.tolist())
        if unknown := [name for name in test_sources if name not in known]:
            raise InputError(
                f"there is no source {', '.join(unknown)}; there are {', '.join(known)}."
            )
        held = np.isin(sources, test_sources)
    elif 0 < test_share <= 0.5:
        parts = max(round(1 / test_share), 2)
        splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        together = keys if member is None else _joined(keys, member)
        if (count := len(np.unique(together))) < parts:
            raise InputError(
                f"the prompts fall into {count} groups that may not be parted, too few to hold out "
                f"a share of {test_share:g}; give other groups, or sources to hold out."
            )
        _require_both(truth, "the collection")
        if (least := min(int(truth.sum()), int((~truth).sum()))) < parts:
            raise InputError(
                f"the smaller class has {least} prompts, too few to hold out a share of "
                f"{test_share:g} of them; give more prompts, or a larger share."
            )
        held = np.zeros(len(truth), bool)
        held[next(iter(splitter.split(truth, truth, together)))[1]] = True
    else:
        raise InputError(f"a test share of {test_share} is not above 0 and at most 0.5.")
    train = ~held & ~np.isin(keys, keys[held])
    _require_both(truth[train], "the training side")
    _require_both(truth[held], "the test side")
    return _side(train, truth, member), _side(held, truth, member)


def _side(
    mask: Bool[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    member: Shaped[np.ndarray, " n"] | None,
) -> _Side:
    return _Side(np.flatnonzero(mask), truth[mask], None if member is None else member[mask])


def _joined(keys: Int[np.ndarray, " n"], member: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Groups such that neither equal prompts nor members of one group are parted."""
    _, own = np.unique(member, return_inverse=True)
    while True:
        before = own
        for names in (keys, member):
            _, place = np.unique(names, return_inverse=True)
            least = np.full(place.max() + 1, len(own))
            np.minimum.at(least, place, own)
            own = least[place]
        if np.array_equal(before, own):
            return np.asarray(own, np.int64)


def _require_both(positive: Bool[np.ndarray, " n"], where: str) -> None:
    if not positive.any() or positive.all():
        raise InputError(
            f"{where} holds {int(positive.sum())} positive and {int((~positive).sum())} negative "
            "prompts; it needs both."
        )


def _fit_states(
    how: _Settings, states: Float[np.ndarray, "n layers width"], train: _Side, layers: Layers
) -> _Fit:
    """A probe of one state a prompt."""
    x, y = states[train.rows], train.positive
    if how.stack == "stacked":
        stacked = StackedProbe(how.k, cv=how.cv, random_state=how.seed).fit(x, y, train.groups)
        kept = stacked.layers_.tolist()
        return _Fit(
            tuple(layers[place] for place in kept),
            _channel(stacked.coef_[kept]),
            torch.tensor([stacked.intercept_], dtype=torch.float64),
            _candidates(layers, stacked.layer_auroc_),
        )
    if how.stack == "concat":
        probe = _fitted(how, concatenated(x), train)
        coef = _channel(probe.coef_.reshape(x.shape[1:]))
        return _Fit(layers, coef, torch.tensor([probe.intercept_], dtype=torch.float64), [])
    scores = _layer_scores(how, x, train)
    best = int(np.argmax(scores))
    probe = _fitted(how, x[:, best], train)
    return _Fit(
        (layers[best],),
        _channel(probe.coef_[None]),
        torch.tensor([probe.intercept_], dtype=torch.float64),
        _candidates(layers, scores),
    )


def _fitted(how: _Settings, x: Float[np.ndarray, "n width"], train: _Side) -> Any:
    if how.estimator == "logistic":
        settings = {"cv": how.cv, "random_state": how.seed}
        return linear.estimator("logistic", **settings).fit(x, train.positive, train.groups)
    return linear.estimator(how.estimator).fit(x, train.positive)


def _layer_scores(
    how: _Settings, x: Float[np.ndarray, "n layers width"], train: _Side
) -> Float[np.ndarray, " layers"]:
    """Cross-validated AUROC of each layer."""
    if how.estimator == "logistic":
        grid = ProbeGrid(cv=how.cv, random_state=how.seed).fit(x, train.positive, train.groups)
        return np.asarray(np.asarray(grid.cv_scores_).mean(1).max(1))
    probe, y = linear.estimator(how.estimator), train.positive
    scores = np.zeros(x.shape[1])
    parts = folds(y, train.groups, how.cv, how.seed)
    for layer in range(x.shape[1]):
        for fit, held in parts:
            found = clone(probe).fit(x[fit, layer], y[fit]).decision_function(x[held, layer])
            scores[layer] += area(found[y[held]], found[~y[held]]) / len(parts)
    return scores


def _fit_tokens(how: _Settings, collection: Collection, train: _Side, layers: Layers) -> _Fit:
    """A probe that is trained on the scores of tokens."""
    y, parts = train.positive, folds(train.positive, train.groups, how.cv, how.seed)
    probe = TokenProbe(how.aggregation, random_state=how.seed)
    scores = np.zeros(len(layers))
    for place, layer in enumerate(layers):
        rows = _of(collection.sequences(layer), train.rows)
        for fit, held in parts:
            found = clone(probe).fit(_of(rows, fit), y[fit]).decision_function(_of(rows, held))
            scores[place] += area(found[y[held]], found[~y[held]]) / len(parts)
    best = int(np.argmax(scores))
    final = clone(probe).fit(_of(collection.sequences(layers[best]), train.rows), y)
    return _Fit(
        (layers[best],),
        torch.as_tensor(final.coef_)[None],
        torch.as_tensor(final.intercept_),
        _candidates(layers, scores),
    )


def _of(rows: Sequence[Tensor], which: Int[np.ndarray, " n"]) -> list[Tensor]:
    return [rows[index] for index in which.tolist()]


def _channel(coef: Float[np.ndarray, "layers width"]) -> Float[Tensor, "layers width 1"]:
    return torch.as_tensor(np.asarray(coef, np.float64))[..., None]


def _candidates(layers: Layers, scores: Float[np.ndarray, " layers"]) -> list[dict[str, Any]]:
    return [
        {"layer": layer, "cv_auroc": float(score)}
        for layer, score in zip(layers, scores, strict=True)
    ]


def _counts(side: _Side) -> dict[str, int]:
    positives = int(side.positive.sum())
    return {"positives": positives, "negatives": len(side.positive) - positives}


def _half_way(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    return float((scores[positive].mean() + scores[~positive].mean()) / 2)


def _floors(collection: Collection, train: _Side, test: _Side) -> dict[str, dict[str, Any]]:
    """What the surface of the prompts tells of the test side, by what it is read from."""
    sides = [collection.table.iloc[side.rows] for side in (train, test)]
    surfaces: dict[str, tuple[Callable[..., Auroc], list[Any]]] = {
        "words": (lexical_floor, [side["text"].tolist() for side in sides]),
        "length": (length_floor, [_words(side["text"].tolist()) for side in sides]),
        "last token": (
            last_token_floor,
            [side["last_token"].to_numpy(np.int64) for side in sides],
        ),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, (floor, (learned, held)) in surfaces.items():
        try:
            told = floor(learned, train.positive, held, test.positive)
        except InputError as error:
            found[name] = {"reason": str(error)}
        else:
            found[name] = {"auroc": told.value, "interval": list(told.interval)}
    return found


def _words(texts: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.array([len(text.split()) for text in texts])


def _null(
    states: Float[np.ndarray, "n layers width"] | None,
    train: _Side,
    test: _Side,
    value: float,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Where the held-out AUROC stands in the null, or why there is none."""
    if states is None:
        return {"reason": "the null is defined for probes of one state a prompt"}
    if permutations == 0:
        return {"reason": "it was not asked for"}
    try:
        null = shuffled_label_null(
            states[train.rows],
            train.positive,
            states[test.rows],
            test.positive,
            permutations=permutations,
            seed=seed,
            train_clusters=train.groups,
            test_clusters=test.groups,
        )
    except InputError as error:
        return {"reason": str(error)}
    return {"q95": null.q95, "quantile": null.quantile(value), "permutations": null.n}
