"""Many logistic regressions on one matrix at once, as columns of one L-BFGS iteration.

Folds, penalties and standardisations differ from column to column and the matrix does not, so each
iteration is two matrix products for all of them, where a loop over scikit-learn reads the matrix
again for every fit. Columns that have converged leave the iteration.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_HISTORY = 10
_ARMIJO = 1e-4
_HALVINGS = 30
# Relative rounding of a loss in float32, which a line search must not mistake for an increase.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Problem:
    """Logistic regressions that share a matrix.

    Column j minimises mean_i ℓ(y_i, z_ij · w_j + b_j) over the rows of its mask, plus
    λ_j/2 · |w_j|², with z_ij = (x_i − centre_j) / scale_j. With n_j rows and λ_j = 1/(C · n_j) that
    is scikit-learn's LogisticRegression(C) on standardised features; the intercept is free.

    Attributes:
        x: the matrix, (n, d).
        y: 1 or 0, (n,).
        rows: which rows each column is fitted on, (n, k).
        penalty: λ, (k,).
        centre: (d, k).
        scale: (d, k), positive.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]
    rows: Bool[Tensor, "n k"]
    penalty: Float[Tensor, " k"]
    centre: Float[Tensor, "d k"]
    scale: Float[Tensor, "d k"]

    def take(self, columns: Tensor) -> "Problem":
        """The same with some of the columns."""
        return Problem(
            self.x,
            self.y,
            self.rows[:, columns],
            self.penalty[columns],
            self.centre[:, columns],
            self.scale[:, columns],
        )


@dataclass(frozen=True)
class Solution:
    """Weights in the coordinates of the matrix itself, with standardisation folded in.

    Attributes:
        coef: (d, k).
        intercept: (k,).
        iterations: until each column converged, (k,).
        gradient: largest entry of each column's last gradient, (k,).
    """

    coef: Float[Tensor, "d k"]
    intercept: Float[Tensor, " k"]
    iterations: Int[Tensor, " k"]
    gradient: Float[Tensor, " k"]


class _State:
    """The columns that are still under way."""

    def __init__(self, problem: Problem, start: Float[Tensor, "d1 k"]) -> None:
        self.problem = problem
        self.weight = problem.rows.to(problem.x.dtype)
        self.weight = self.weight / self.weight.sum(0)
        self.inverse = 1 / problem.scale
        self.sign = (2 * problem.y - 1)[:, None]
        self.theta = start
        self.logits = self.line(start)
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []
        self.loss = self.objective(self.logits, start)
        self.gradient = self.slope(self.logits, start)

    def line(self, theta: Tensor) -> Float[Tensor, "n k"]:
        """Logits; linear in theta, so that a line search costs no further product."""
        raw = theta[:-1] * self.inverse
        return self.problem.x @ raw + (theta[-1] - (self.problem.centre * raw).sum(0))

    def objective(self, logits: Tensor, theta: Tensor) -> Float[Tensor, " k"]:
        """The loss of each column."""
        data = self.weight * torch.nn.functional.softplus(-self.sign * logits)
        return data.sum(0) + 0.5 * self.problem.penalty * (theta[:-1] ** 2).sum(0)

    def slope(self, logits: Tensor, theta: Tensor) -> Float[Tensor, "d1 k"]:
        """Its gradient; the last row is that of the intercept."""
        residual = self.weight * (torch.sigmoid(logits) - self.problem.y[:, None])
        total = residual.sum(0)
        data = self.inverse * (self.problem.x.T @ residual - self.problem.centre * total)
        return torch.cat([data + self.problem.penalty * theta[:-1], total[None]])

    def direction(self) -> Float[Tensor, "d1 k"]:
        """The two-loop recursion, for every column by itself."""
        q = self.gradient.clone()
        alphas = []
        for step, change, rho in reversed(self.history):
            alpha = rho * (step * q).sum(0)
            q -= alpha * change
            alphas.append(alpha)
        if self.history:
            step, change, _ = self.history[-1]
            q *= (step * change).sum(0) / (change * change).sum(0).clamp_min(1e-30)
        else:
            q /= self.gradient.norm(dim=0).clamp_min(1.0)
        for (step, change, rho), alpha in zip(self.history, reversed(alphas), strict=True):
            q += (alpha - rho * (change * q).sum(0)) * step
        return -q

    def advance(self) -> None:
        """One iteration: a direction, a backtracking line search, and the new gradient."""
        direction = self.direction()
        falling = (self.gradient * direction).sum(0)
        along = self.line(direction)
        length = torch.ones_like(falling)
        theta, logits, loss = self.theta, self.logits, self.loss
        for _ in range(_HALVINGS):
            theta = self.theta + length * direction
            logits = self.logits + length * along
            loss = self.objective(logits, theta)
            slack = _ARMIJO * length * falling + _ROUNDING * self.loss
            good = loss <= self.loss + slack
            if bool(good.all()):
                break
            length = torch.where(good, length, length / 2)
        gradient = self.slope(logits, theta)
        step, change = length * direction, gradient - self.gradient
        curvature = (step * change).sum(0)
        rho = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-30), 0.0)
        self.history = [*self.history[-(_HISTORY - 1) :], (step, change, rho)]
        self.theta, self.logits, self.loss, self.gradient = theta, logits, loss, gradient

    def keep(self, columns: Tensor) -> None:
        """Go on with some of the columns."""
        self.problem = self.problem.take(columns)
        for name in ("weight", "inverse", "theta", "logits", "loss", "gradient"):
            setattr(self, name, getattr(self, name)[..., columns])
        self.history = [tuple(t[..., columns] for t in entry) for entry in self.history]  # type: ignore[misc]


@torch.no_grad()
def fit_columns(
    problem: Problem,
    *,
    tolerance: float,
    most_iterations: int,
    start: Float[Tensor, "d1 k"] | None = None,
) -> Solution:
    """Fit every column until the largest entry of its gradient is below the tolerance.

    Args:
        problem: the regressions; each needs rows of both classes.
        tolerance: of the gradient of the mean loss in standardised coordinates.
        most_iterations: after which a column is given up; its `gradient` tells.
        start: weights and intercept to begin with, in standardised coordinates; zero weights and
            the intercept of the class ratio if None.
    """
    d, k = problem.centre.shape
    theta = problem.x.new_zeros(d + 1, k) if start is None else start.clone()
    if start is None:
        share = (problem.rows * problem.y[:, None]).sum(0) / problem.rows.sum(0)
        theta[-1] = torch.log(share / (1 - share))
    state = _State(problem, theta)
    under_way = torch.arange(k, device=problem.x.device)
    iterations = torch.zeros(k, dtype=torch.long, device=problem.x.device)
    gradient = torch.zeros(k, dtype=problem.x.dtype, device=problem.x.device)
    for iteration in range(most_iterations + 1):
        worst = state.gradient.abs().amax(0)
        done = (worst <= tolerance) | (iteration == most_iterations)
        finished = under_way[done]
        theta[:, finished] = state.theta[:, done]
        iterations[finished], gradient[finished] = iteration, worst[done]
        if bool(done.all()):
            break
        # Cutting columns out costs a copy, so it waits until an eighth of them is done.
        if int(done.sum()) * 8 >= len(done):
            state.keep(~done)
            under_way = under_way[~done]
        state.advance()
    raw = theta[:-1] / problem.scale
    return Solution(raw, theta[-1] - (problem.centre * raw).sum(0), iterations, gradient)
