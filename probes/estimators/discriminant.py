"""Linear discriminant analysis of states that are wider than there are prompts."""

import numpy as np
from jaxtyping import Float, Int

_LEAST = 1e-9  # share of the identity, below which what is left of it is rounding


def wide_discriminant(
    x: Float[np.ndarray, "n width"], encoded: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " width"], float] | None:
    """Coefficients and intercept of scikit-learn's LDA (`lsqr`, `auto`), in the span of the rows.

    The covariance of a class is its correlation, shrunk towards the identity after Ledoit and Wolf
    (2004), in the units of the states; the classes count by their size. So all of it is a diagonal
    and as many rows as there are prompts, and is inverted (Woodbury) by a matrix of prompts ×
    prompts; scikit-learn solves one of width × width. The coefficients are the same.

    Args:
        x: states.
        encoded: class of each, 0 or 1.

    Returns:
        None if neither class is shrunk, as with two prompts each: then there is no inverse.
    """
    n, width = x.shape
    parts = [x[encoded == number] for number in (0, 1)]
    first, second = (part.mean(0) for part in parts)
    rows, shares, diagonal = [], [], np.zeros(width)
    for part in parts:
        residual = part - part.mean(0)
        size = np.sqrt((residual**2).mean(0))
        size[size == 0] = 1.0
        scaled = residual / size
        share = _shrinkage(scaled)
        shares.append(share)
        rows.append(residual * np.sqrt((1 - share) / n))
        diagonal += len(part) / n * share * (scaled**2).mean() * size**2
    if max(shares) < _LEAST:
        return None
    z = np.concatenate(rows)
    over = z / diagonal
    apart = (second - first) / diagonal
    inner = np.eye(n) + over @ z.T
    coef = apart - over.T @ np.linalg.solve(inner, z @ apart)
    prior = np.log(len(parts[1]) / len(parts[0]))
    return coef, float(prior - (first + second) @ coef / 2)


def _shrinkage(z: Float[np.ndarray, "rows width"]) -> float:
    """Ledoit and Wolf's share of the identity, from the products of the rows among each other."""
    n, width = z.shape
    gram = z @ z.T
    mean = np.trace(gram) / n / width
    square = (gram**2).sum() / n**2  # of the covariance, summed over its entries
    noise = ((np.diag(gram) ** 2).sum() / n - square) / n
    away = square - width * mean**2
    return float(min(noise, away) / away) if away > 0 else 0.0
