"""Views: how a site is read from the tensor of a module, and an edited value put back into it."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """`read` turns the module's tensor into the site's; `write` puts an edited value back."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]


def whole() -> View:
    """The tensor as it is."""
    return View(lambda tensor: tensor, _replace)


def by_head(heads: int) -> View:
    """The last axis as [heads, head_dim]."""
    return View(lambda tensor: tensor.unflatten(-1, (heads, -1)), _replace)


def _replace(tensor: Tensor, value: Tensor) -> Tensor:
    return value.reshape(tensor.shape)
