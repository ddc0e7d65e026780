"""What a guard computes from the states of one token at several layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import InputError
from probes.estimators.grid import ProbeGrid
from probes.guards.latent_guard import LatentGuard, middle_layers

Method = Literal["centred", "paper", "probe"]
SITE = "resid_post"


@dataclass(frozen=True)
class Readout:
    """A score that is a sum over layers: bias + Σ_l w_l · (h_l − c_l), by the norm if `cosine`.

    Attributes:
        layers: whose output is read.
        weights: w.
        centres: c.
        bias: added once.
        cosine: divide each layer's difference by its norm.
    """

    layers: tuple[int, ...]
    weights: Float[np.ndarray, "layers width"]
    centres: Float[np.ndarray, "layers width"]
    bias: float
    cosine: bool

    @classmethod
    def fit(
        cls,
        states: Float[np.ndarray, "n all_layers width"],
        harmful: Bool[np.ndarray, " n"],
        method: Method,
        seed: int = 0,
    ) -> "Readout":
        """Fit on the outputs of all blocks at t_inst.

        Args:
            states: of every prompt, at every layer.
            harmful: the class of each.
            method: `centred` and `paper` as in `LatentGuard`; `probe` is one logistic regression
                on the layers of `centred` side by side, with a cross-validated penalty.
            seed: of the folds of `probe`.

        Raises:
            InputError: no such method, an empty class, or fewer prompts of a class than folds.
            NumericalError: a state is NaN or infinite.
        """
        if require_method(method) != "probe":
            latent = LatentGuard(paper_exact=method == "paper").fit(states, harmful)
            used = tuple(latent.layers_.tolist())
            weights = (latent.weights_ / len(used)).astype(np.float32)
            return cls(used, weights, latent.centres_.astype(np.float32), 0.0, True)
        kept = middle_layers(states.shape[1])
        # Around the mean float32 keeps digits that a large common component would take.
        centres = states[:, kept].mean(0, dtype=np.float64).astype(np.float32)
        flat = (states[:, kept] - centres).reshape(len(states), -1)
        probe = ProbeGrid(random_state=seed).fit(flat, harmful)
        weights = probe.coef_.reshape(centres.shape)
        return cls(tuple(kept.tolist()), weights, centres, float(probe.intercept_), False)

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """As a function on a device: float states [layers, rows, width] to scores [rows]."""
        weights, centres = (
            torch.as_tensor(some, dtype=torch.float32, device=device)[:, None]
            for some in (self.weights, self.centres)
        )

        def score(states: Tensor) -> Tensor:
            off = states.float() - centres
            each = (off * weights).sum(-1)
            if self.cosine:
                each = each / off.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
            return each.sum(0) + self.bias

        return score


def require_method(name: str) -> Method:
    """Check the name of a method.

    Raises:
        InputError: there is no such method.
    """
    for known in get_args(Method):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"there is no guard {name!r}; there are {', '.join(get_args(Method))}.")
