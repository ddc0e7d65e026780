"""What the residual stream has along a direction: removed, or set to a value."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.interventions.hooks import Positions, edited, finite, fitted, require_width, wide
from interp.model.loaded import LoadedModel
from interp.model.sites import Site


@contextmanager
def ablate_direction(
    checkpoint: LoadedModel, direction: Float[Tensor, " width"], sites: Sequence[Site]
) -> Iterator[None]:
    """Remove a direction: x − (x·û)û at every token (Arditi et al., arXiv 2406.11717, §2.4).

    Args:
        checkpoint: the model to edit.
        direction: [width], of any length but zero. At a site with heads, [heads · head_dim].
        sites: where; `stream_sites` for the whole residual stream.

    Raises:
        InputError: no site, or the direction is zero, not finite, or of the wrong width.
    """
    with set_projection(checkpoint, direction, sites, 0.0):
        yield


@contextmanager
def set_projection(
    checkpoint: LoadedModel,
    direction: Float[Tensor, " width"],
    sites: Sequence[Site],
    value: float | Sequence[float],
    positions: Positions | None = None,
) -> Iterator[None]:
    """Set what a token has along a direction: x + (value − x·û)û.

    With the mean projection of accepted prompts as value this is the affine ablation of Marshall,
    Scherlis and Belrose (arXiv 2411.09003), which does not take the origin for neutral.

    Args:
        checkpoint: the model to edit.
        direction: [width], of any length but zero; only where it points counts.
        sites: where.
        value: in units of the residual stream; one number, or one for each site.
        positions: everywhere if None; else [positions] or [batch, positions].

    Raises:
        InputError: no site, not one value for each, or a direction that does not fit.
    """
    if not sites:
        raise InputError("no site was given to edit the direction at.")
    vector = wide(finite(direction, "the direction"))
    norm = vector.norm()
    if not bool(norm > 0):
        raise InputError("the direction is the zero vector, which points nowhere.")
    unit = vector / norm
    values = [float(value)] * len(sites) if isinstance(value, (int, float)) else list(value)
    if len(values) != len(sites):
        raise InputError(f"there are {len(values)} values for {len(sites)} sites.")
    finite(torch.tensor(values), "the value")

    with ExitStack() as stack:
        for site, wanted in zip(sites, values, strict=True):
            require_width(checkpoint, site, vector)
            to_value = partial(_moved, unit, wanted)
            stack.enter_context(edited(checkpoint, site, to_value, positions))
        yield


def _moved(unit: Tensor, wanted: float, x: Tensor, _: Tensor | None) -> Tensor:
    """The tensor with its projection on a unit vector set to a value."""
    flat = wide(x.flatten(2))
    along = fitted(unit, flat.shape[2:]).to(flat.device, flat.dtype)
    moved = flat - ((flat @ along)[..., None] - wanted) * along
    return moved.to(x.dtype).reshape(x.shape)


def stream_sites(checkpoint: LoadedModel) -> list[Site]:
    """Every site at which the residual stream can be read or is written to, layer by layer.

    A direction that is projected out at all of them is nowhere in the stream. A block that lacks
    one of them, such as `resid_mid` in a parallel block, has the others.
    """
    names = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    return [
        Site(name, number)
        for number, layer in enumerate(checkpoint.anatomy.layers)
        for name in names
        if name in layer.sites
    ]
