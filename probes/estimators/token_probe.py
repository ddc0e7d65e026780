"""`TokenProbe`: a probe that scores every token of a row, and aggregates the scores."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from interp.errors import InputError, NumericalError
from probes.estimators.aggregation import Aggregator, Mean, window_means

_INITIAL = 0.01  # spread of the first weights, so that several heads do not stay alike


class TokenProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear scores of tokens and their aggregation, trained on whole rows.

    It keeps scikit-learn's contract as far as rows of unequal length allow: `X` is a list. The
    penalty is that of LogisticRegression: the sum of the losses of all rows plus |w|²/(2 C), on
    features that are standardised over all tokens; the standardisation is folded back. Last, the
    intercept is set so that the mean probability over the rows is the share of positives, which a
    hard aggregation such as a maximum needs after soft training.

    Args:
        aggregation: how the scores of a row become one; the mean if None.
        loss: `aggregate` trains the (relaxed) aggregation. `windows` trains the means of `window`
            tokens in a row, each weighted by the softmax of those means at `temperature`
            (arXiv 2601.04603); for aggregations of one score for each token.
        C: inverse penalty.
        window: tokens in a window of the loss.
        temperature: of the loss's softmax.
        standardize: centre the features and divide them by their standard deviation.
        tol: largest entry of the gradient of the mean loss at the end.
        max_iter: iterations of L-BFGS at most.
        device: where to compute.
        random_state: of the first weights.

    Attributes:
        coef_: in raw coordinates, (width, channels); channels is 1 for one score a token.
        intercept_: (channels,).
        classes_: the two labels.
        n_iter_: evaluations of the loss.
    """

    def __init__(
        self,
        aggregation: Aggregator | None = None,
        *,
        loss: Literal["aggregate", "windows"] = "aggregate",
        C: float = 1.0,
        window: int = 16,
        temperature: float = 1.0,
        standardize: bool = True,
        tol: float = 1e-4,
        max_iter: int = 500,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.aggregation = aggregation
        self.loss = loss
        self.C = C
        self.window = window
        self.temperature = temperature
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    def fit(self, X: Sequence[Any], y: Any) -> "TokenProbe":
        """Train on rows of states.

        Args:
            X: of each row the states of its tokens, [length, width], numpy or torch.
            y: two classes, (n,).

        Raises:
            InputError: shapes that do not fit, a row without tokens, not two classes, or settings
                that do not go together.
            NumericalError: NaN or infinite states.
        """
        how = self._aggregation()
        if self.loss not in ("aggregate", "windows") or (self.loss == "windows" and how.channels):
            raise InputError(
                f"the loss {self.loss!r} does not go with {how.name}; there are aggregate, and "
                "windows for aggregations of one score for each token."
            )
        rows = _Ragged.of(X, self.device)
        labels = np.asarray(y)
        if labels.shape != (len(X),):
            raise InputError(f"{len(X)} rows need as many labels; got {labels.shape}.")
        self.classes_, encoded = np.unique(labels, return_inverse=True)
        if len(self.classes_) != 2:
            raise InputError(
                f"a probe tells two classes; the labels hold {len(self.classes_)}: "
                f"{', '.join(map(str, self.classes_[:5]))}."
            )
        self.n_features_in_ = rows.states.shape[1]
        mean, deviation = self._scale(rows.states)
        target = torch.as_tensor(encoded, dtype=torch.float32, device=self.device)
        scaled = _Ragged((rows.states - mean) / deviation, rows.mask)
        weights, bias = self._minimise(how, scaled, target)
        raw = (weights / deviation[:, None]).double()
        self.coef_ = raw.cpu().numpy()
        self.intercept_ = (bias.double() - mean.double() @ raw).cpu().numpy()
        self.intercept_[-1] += _shift(self.decision_function(X), encoded)
        return self

    def decision_function(self, X: Sequence[Any]) -> Float[np.ndarray, " n"]:
        """Log-odds of the second class of every row.

        Raises:
            InputError: another width than that of the rows that were fitted.
            NumericalError: NaN or infinite states.
        """
        check_is_fitted(self)
        rows = _Ragged.of(X, self.device)
        if rows.states.shape[1] != self.n_features_in_:
            raise InputError(
                f"states are {rows.states.shape[1]} wide; the probe was fitted on "
                f"{self.n_features_in_}."
            )
        coef, intercept = (torch.as_tensor(a).to(rows.states) for a in self._parameters())
        how = self._aggregation()
        return how.aggregate(rows.scores(how, coef, intercept), rows.mask).double().cpu().numpy()

    def predict_proba(self, X: Sequence[Any]) -> Float[np.ndarray, "n 2"]:
        """Probability of both classes."""
        positive = expit(self.decision_function(X))
        return np.stack([1 - positive, positive], 1)

    def predict(self, X: Sequence[Any]) -> np.ndarray:
        """The likelier class of every row."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])

    def stream(self, batch: int = 1) -> "Monitor":
        """A monitor that is fed one token of every row at a time."""
        check_is_fitted(self)
        coef, intercept = self._parameters()
        return Monitor(
            self._aggregation(), torch.as_tensor(coef), torch.as_tensor(intercept), batch
        )

    def _parameters(self) -> tuple[np.ndarray, np.ndarray]:
        return self.coef_, self.intercept_

    def _aggregation(self) -> Aggregator:
        return Mean() if self.aggregation is None else self.aggregation

    def _scale(self, states: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = torch.zeros_like(states[0]), torch.ones_like(states[0])
        if self.standardize:
            mean, spread = states.double().mean(0), states.double().std(0, correction=0)
            real = spread > 1e-6 * mean.abs().clamp_min(1e-30)
            deviation = torch.where(real, spread, 1.0).to(states.dtype)
            mean = mean.to(states.dtype)
        return mean, deviation

    def _minimise(self, how: Aggregator, rows: "_Ragged", target: Tensor) -> tuple[Tensor, Tensor]:
        """L-BFGS over all rows at once."""
        channels = max(how.channels, 1)
        generator = torch.Generator().manual_seed(self.random_state)
        weights = torch.zeros(rows.states.shape[1], channels)
        if how.channels:
            weights = _INITIAL * torch.randn(weights.shape, generator=generator)
        weights = weights.to(self.device).requires_grad_()
        bias = torch.zeros(channels, device=self.device, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weights, bias],
            max_iter=self.max_iter,
            tolerance_grad=self.tol,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        evaluations = 0

        def objective() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            optimiser.zero_grad()
            scores = rows.scores(how, weights, bias)
            loss = self._loss(how, scores, rows.mask, target)
            loss = loss + weights.square().sum() / (2 * self.C * len(target))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(objective)  # type: ignore[no-untyped-call]
        objective()
        gradient = max(float(p.grad.abs().max()) for p in (weights, bias) if p.grad is not None)
        if not gradient <= self.tol:
            warnings.warn(
                f"the probe did not converge in {self.max_iter} iterations (largest gradient "
                f"{gradient:.2g}); raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.n_iter_ = evaluations
        return weights.detach(), bias.detach()

    def _loss(self, how: Aggregator, scores: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        if self.loss == "aggregate":
            return binary_cross_entropy_with_logits(how.relaxed(scores, mask), target)
        means, valid = window_means(scores, mask, self.window)
        weight = (means / self.temperature).masked_fill(~valid, -torch.inf).softmax(1)
        wanted = target[:, None].expand_as(means)
        each = binary_cross_entropy_with_logits(means, wanted, reduction="none")
        return (weight * each).sum(1).mean()


class Monitor:
    """The score of rows that arrive token by token.

    Args:
        aggregation: of the token scores.
        coef: [width, channels].
        intercept: [channels].
        batch: number of rows.
    """

    def __init__(
        self,
        aggregation: Aggregator,
        coef: Float[Tensor, "width channels"],
        intercept: Float[Tensor, " channels"],
        batch: int = 1,
    ) -> None:
        self.aggregation = aggregation
        self.coef, self.intercept = coef, intercept
        self.state = aggregation.start(batch, coef.device)

    def update(
        self,
        states: Float[Tensor, "batch width"],
        real: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Take in one token of every row; returns the rows' log-odds so far.

        Args:
            states: of the token, at the site and layer of the probe.
            real: False for rows in which this is padding.

        Raises:
            NumericalError: NaN or infinite states.
        """
        if not bool(torch.isfinite(states).all()):
            raise NumericalError("the states of a token are NaN or infinite; it has no score.")
        scores = states.to(self.coef) @ self.coef + self.intercept
        score = scores if self.aggregation.channels else scores[:, 0]
        self.state = self.aggregation.update(self.state, score, real)
        return self.value

    @property
    def value(self) -> Float[Tensor, " batch"]:
        """The rows' log-odds so far; NaN for a row that has seen no token."""
        return self.aggregation.value(self.state)


@dataclass(frozen=True)
class _Ragged:
    """Tokens of all rows one after another, [tokens, width], and where they stand in a batch."""

    states: Tensor
    mask: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Any], device: str) -> "_Ragged":
        rows = [torch.as_tensor(row).detach().to(device, torch.float32) for row in sequences]
        if not rows:
            raise InputError("there is no row.")
        width = rows[0].shape[-1] if rows[0].ndim else 0
        for number, row in enumerate(rows):
            if row.ndim != 2 or row.shape[1] != width or not len(row):
                raise InputError(
                    f"row {number} has the shape {tuple(row.shape)}; rows are [length, {width}] "
                    "with at least one token."
                )
            if not bool(torch.isfinite(row).all()):
                raise NumericalError(
                    f"row {number} holds NaN or infinite states; no probe can read it."
                )
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
        return cls(torch.cat(rows), mask)

    def scores(self, how: Aggregator, coef: Tensor, intercept: Tensor) -> Tensor:
        """Of every token, padded: [rows, length] or [rows, length, channels]."""
        found = self.states @ coef + intercept
        padded = found.new_zeros(*self.mask.shape, found.shape[1])
        padded = padded.masked_scatter(self.mask[..., None], found)
        return padded if how.channels else padded[..., 0]


def _shift(logits: Float[np.ndarray, " n"], encoded: np.ndarray) -> float:
    """What to add, so that the mean probability is the share of positives."""
    share = encoded.mean()
    wide = float(np.abs(logits).max()) + 50.0
    return float(brentq(lambda by: expit(logits + by).mean() - share, -wide, wide))
