"""Vectors that policies add, conditions that they compare with, and AlphaSteer's readers."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from steering.training.examples import Captured, Read

_LEAST = 8


def refused_and_complied(read: Read, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Harmful prompts that are refused; prompts of each other kind that are not, by first token.

    Raises:
        InputError: the model refuses too few harmful prompts by itself.
    """
    refused = (read.kinds == "harmful") & (read.odds > 0)
    if refused.sum() < _LEAST:
        raise InputError(
            f"{name} refuses {int(refused.sum())} of the {int((read.kinds == 'harmful').sum())} "
            f"harmful training prompts by itself, and {_LEAST} are needed to see its refusal; give "
            "harmful prompts that it refuses."
        )
    complied = [(read.kinds == kind) & (read.odds < 0) for kind in ("jailbroken", "benign")]
    complied = [mask for mask in complied if mask.sum() >= _LEAST]
    if not complied:
        raise InputError(
            f"{name} refuses nearly all of the training prompts, the benign ones too, so there is "
            "no answer to tell its refusals from."
        )
    return refused, complied


def refusal_vector(captured: Captured, layer: int) -> Float[Tensor, " width"]:
    """Refused less complied prompts at the last prompt token of `resid_post`, of its raw length.

    The difference in means of Arditi et al. (arXiv 2406.11717), §2.3, in which jailbroken prompts
    that are answered count as much as benign ones: so the vector is of refusal more than of harm.
    """
    read = captured.train
    refused, complied = refused_and_complied(read, captured.checkpoint.name)
    states = read.at(layer, -1).astype(np.float64)
    away = np.mean([states[mask].mean(0) for mask in complied], axis=0)
    return torch.tensor(states[refused].mean(0) - away, dtype=torch.float32)


def pairwise_component(
    high: Float[np.ndarray, "high width"], low: Float[np.ndarray, "low width"]
) -> Float[np.ndarray, " width"]:
    """First principal component of pairs, each centred at its mean; of length 1.

    CAST (arXiv 2409.05907), `pca_pairwise`: its sign is such that `high` projects higher.
    """
    n = min(len(high), len(low))
    half = (high[:n].astype(np.float64) - low[:n]) / 2
    # Pairs centred at their means are ± half of their difference, so the mean is 0.
    _, _, components = np.linalg.svd(half, full_matrices=False)
    first: np.ndarray = components[0]
    return first if (high @ first).mean() >= (low @ first).mean() else -first


def behaviour_vector(captured: Captured, layer: int) -> Float[Tensor, " width"]:
    """CAST's vector at one layer, as long as the mean difference along it, so that α = 1 adds that.

    Refused prompts are paired with complied ones at random.
    """
    read = captured.train
    refused, complied = refused_and_complied(read, captured.checkpoint.name)
    states, rng = read.at(layer, -1), np.random.default_rng(0)
    high = states[refused]
    low = np.concatenate([states[mask][rng.permutation(int(mask.sum()))] for mask in complied])
    low = low[rng.permutation(len(low))]
    first = pairwise_component(high, low)
    return torch.tensor(first * ((high @ first).mean() - (low @ first).mean())).float()


def unembedding_direction(captured: Captured) -> Float[Tensor, " width"]:
    """The d of WAS (arXiv 2505.20309): mean unembedding of refusal less answer tokens.

    The paper lists phrases; here they are the tokens that open the model's own refusals and
    answers.

    Raises:
        InputError: the model has no unembedding of its own.
    """
    head = captured.checkpoint.model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or not captured.answer_ids:
        raise InputError(
            f"{captured.checkpoint.name} has no unembedding to take the direction of was from."
        )
    rows = weight.detach().float().cpu()
    direction: Tensor = rows[list(captured.refusal_ids)].mean(0) - rows[
        list(captured.answer_ids)
    ].mean(0)
    unit: Tensor = direction / direction.norm()
    return unit


def null_space_reader(
    benign: Float[np.ndarray, "benign width"],
    harmful: Float[np.ndarray, "harmful width"],
    share: float,
    ridge: float = 10.0,
) -> Float[Tensor, " width"]:
    """The c of AlphaSteer's Δ = r cᵀ, scaled so that c·h is 1 on average over harmful states.

    AlphaSteer (arXiv 2506.07022): P̂ projects on the share of eigenvectors of benign HᵀH with the
    lowest eigenvalues; D̃ is the ridge regression of P̂ h onto r. With the same target r for all
    prompts, c = P̂ (Σ P̂ h hᵀ P̂ + λ I)⁻¹ Σ P̂ h. The scale makes strengths comparable.

    Args:
        benign: states.
        harmful: states.
        share: of eigenvectors kept.
        ridge: λ.

    Raises:
        InputError: harmful states have nothing in directions that benign ones do not use.
    """
    h, b = torch.tensor(harmful).double(), torch.tensor(benign).double()
    _, vectors = torch.linalg.eigh(b.T @ b)
    kept = vectors[:, : max(1, int(share * len(vectors)))]
    z = h @ kept
    inner = torch.linalg.solve(z.T @ z + ridge * torch.eye(z.shape[1]).double(), z.sum(0))
    c = kept @ inner
    mean = float((h @ c).mean())
    if not mean > 1e-9:
        raise InputError(
            "harmful states have no part outside of what benign states use, so alphasteer has "
            "nothing to read; keep a larger share of the eigenvectors."
        )
    reader: Tensor = (c / mean).float()
    return reader
