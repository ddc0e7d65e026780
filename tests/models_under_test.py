"""Tiny models prepared for checks, and short ways to look at them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from families import tiny

from interp.doctor.model_under_test import ModelUnderTest, prepare, reading
from interp.interventions.edits_by_site import (
    ablate_direction,
    add_vector,
    drop_massive_activation,
    move_to_sink,
    patch,
    perturb_heads,
    zero_heads,
)
from interp.model.sites import Site
from interp.resolve import load

HEADS = 4


def steady(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model whose numbers do not hang on rounding.

    The delta rule on large random weights amplifies it a hundredfold; a top-2 route in half
    precision can flip, unless every expert is chosen.
    """
    model = tiny(family, dtype)
    for name, weight in model.named_parameters():
        if "linear_attn" in name and weight.ndim >= 2:
            weight.detach().mul_(0.3)
    for module in model.modules():
        if dtype == torch.bfloat16 and hasattr(module, "top_k") and hasattr(module, "num_experts"):
            module.top_k = module.num_experts
    return model


def model_under_test(
    family: str, length: int, dtype: torch.dtype = torch.float32
) -> ModelUnderTest:
    """A steady model with rows of `length` tokens."""
    whole = prepare(load(steady(family, dtype)), seed=0)
    return ModelUnderTest(whole.checkpoint, whole.ids[:, :length], whole.tolerance, whole.seed)


def logits_of(tested: ModelUnderTest, real: Any = None, ids: Any = None) -> torch.Tensor:
    """Of the model's own ids, unless others are given."""
    with torch.inference_mode():
        return tested.logits(tested.ids if ids is None else ids, real)


def value_at(tested: ModelUnderTest, site: Site, real: Any = None) -> torch.Tensor:
    """The tensor at a site in a pass over the model's ids."""
    with torch.inference_mode(), reading(tested.checkpoint, [site]) as found:
        tested.logits(tested.ids, real)
    return found[site]


def vector_for(tested: ModelUnderTest, seed: int = 1) -> torch.Tensor:
    """A random vector of the model's width."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tested.checkpoint.anatomy.width, generator=generator)


def last_softmax(tested: ModelUnderTest) -> int:
    """Index of the last layer with heads."""
    return tested.checkpoint.anatomy.softmax_layers[-1]


# One of each kind, for a batch of four rows.
INTERVENTIONS: dict[str, Callable[[ModelUnderTest], AbstractContextManager[None]]] = {
    "zero_heads": lambda p: zero_heads(p.checkpoint, last_softmax(p), [0]),
    "move_to_sink": lambda p: move_to_sink(p.checkpoint, last_softmax(p), [1]),
    "ablate_direction": lambda p: ablate_direction(
        p.checkpoint, vector_for(p), [Site("resid_post", 1), Site("attn_out", 3)]
    ),
    "add_vector": lambda p: add_vector(
        p.checkpoint, 3 * vector_for(p), Site("resid_post", 1), [1.0, 0.5, 2.0, 0.0], range(4, 20)
    ),
    "patch": lambda p: patch(p.checkpoint, Site("mlp_out", 1), vector_for(p), [1, 5]),
    "drop": lambda p: drop_massive_activation(p.checkpoint, 0, 3, 0, 5.0),
    "perturb_heads": lambda p: perturb_heads(p.checkpoint, last_softmax(p), [2]),
    "z_pre_gate": lambda p: add_vector(
        p.checkpoint, torch.ones(HEADS, 8), Site("z_pre_gate", last_softmax(p))
    ),
}
