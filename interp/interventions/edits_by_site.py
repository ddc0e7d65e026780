"""Interventions: reversible edits during a forward pass, as context managers.

They nest in any order and act in the order of entry, out of place, for each row of a batch, and in
the same way with and without a KV cache. Positions count from the first real token, which is 0
(`position_ids`). On leaving, also by an exception, the model is as it was; an edit that never came
to act although the model ran is an error, because it would otherwise look like a null result.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp.attention.statistics import AttentionCall, Tap, observe
from interp.errors import InputError
from interp.interventions.hooks import (
    Heads,
    Pass,
    Positions,
    edited,
    finite,
    fitted,
    head_mask,
    per_row,
    require_width,
    watched,
    wide,
)
from interp.interventions.noise import Noise
from interp.interventions.projections import ablate_direction, set_projection, stream_sites
from interp.model.loaded import LoadedModel
from interp.model.modules import find_projections
from interp.model.sites import Site

__all__ = [
    "ablate_direction",
    "add_vector",
    "drop_massive_activation",
    "move_to_sink",
    "patch",
    "perturb_heads",
    "scale_heads",
    "set_projection",
    "stream_sites",
    "zero_heads",
]


@contextmanager
def scale_heads(checkpoint: LoadedModel, layer: int, scales: Tensor) -> Iterator[None]:
    """Multiply what each head writes by a factor.

    The factor acts on `z`, the input of the output projection and behind any gate, which equals
    scaling the head's attention weights A[:, h].

    Args:
        checkpoint: the model to edit.
        layer: 0-based.
        scales: [heads] for all rows, or [batch, heads].

    Raises:
        InputError: the layer has no heads, or the scales do not fit or are not finite.
    """
    site = Site("z", layer)
    checkpoint.require(site)
    heads = checkpoint.anatomy.layers[layer].heads
    factors = finite(torch.as_tensor(scales), "scales")
    if factors.ndim not in (1, 2) or factors.shape[-1] != heads:
        raise InputError(
            f"scales has shape {tuple(factors.shape)}; layer {layer} needs [{heads}] or "
            f"[batch, {heads}]."
        )

    with edited(checkpoint, site, partial(_times, factors)):
        yield


def _times(factors: Tensor, z: Tensor, _: Tensor | None) -> Tensor:
    rows = per_row(factors, z.shape[0], 1, "scales").to(z.device)
    return (wide(z) * rows[:, None, :, None]).to(z.dtype)


@contextmanager
def zero_heads(checkpoint: LoadedModel, layer: int, heads: Heads) -> Iterator[None]:
    """Silence heads: what they write becomes zero.

    Args:
        checkpoint: the model to edit.
        layer: 0-based.
        heads: indices, or a boolean mask [heads] or [batch, heads].

    Raises:
        InputError: there are no such heads.
    """
    checkpoint.require(Site("z", layer))
    with scale_heads(checkpoint, layer, (~head_mask(checkpoint, layer, heads)).float()):
        yield


@contextmanager
def move_to_sink(checkpoint: LoadedModel, layer: int, heads: Heads) -> Iterator[None]:
    """Let heads attend to the first real token alone: A[:, h] := one-hot.

    The head's output before any gate becomes the first real token's value, cached or not; a learned
    sink gets nothing. For a dormant head (Guo et al., arXiv 2410.13835) this changes next to
    nothing.

    Args:
        checkpoint: the model to edit.
        layer: 0-based, of full or sliding attention.
        heads: indices, or a boolean mask [heads] or [batch, heads].

    Raises:
        InputError: there are no such heads, or a window hides the first token from a query.
        UnsupportedModelError: the model does not route attention through the interface.
    """
    checkpoint.require(Site("z_pre_gate", layer))
    here = checkpoint.anatomy.layers[layer]
    if here.attention == "chunked":
        raise InputError(
            f"layer {layer} attends in chunks, so most queries cannot see the first token; choose "
            "one of the full-attention layers."
        )
    mask = head_mask(checkpoint, layer, heads)
    with watched(checkpoint, layer, f"moving heads of layer {layer} to the sink") as seen:

        def receive(call: AttentionCall) -> None:
            seen.fired += 1
            batch, count = call.output.shape[:2]
            first = _first_token(seen, batch, call.value.device, layer, here.window)
            rows = torch.arange(batch, device=first.device)
            value = call.value[rows, :, first].repeat_interleave(count // call.value.shape[1], 1)
            moved = per_row(mask, batch, 1, "heads").to(first.device)[:, :, None, None]
            call.output = torch.where(moved, value[:, :, None].to(call.output.dtype), call.output)

        with observe(checkpoint.model, checkpoint.anatomy, {layer: Tap(receive)}):
            yield


def _first_token(
    seen: Pass, batch: int, device: torch.device, layer: int, window: int | None
) -> Tensor:
    """Index [batch] of each row's first real key, which every real query must be able to see."""
    mask = seen.attention_mask
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise InputError(
            "moving heads to the sink needs to know where the padding is: pass a 2-D attention "
            "mask [batch, length], or none if there is no padding."
        )
    if mask is None:
        first = torch.zeros(batch, dtype=torch.long, device=device)
        span = 0 if seen.position_ids is None else int(seen.position_ids.max())
    else:
        real = mask.to(device).bool().long()
        first = real.argmax(-1)
        span = int((real.shape[1] - 1 - real.flip(1).argmax(-1) - first).max())
    if window is not None and span >= window:
        raise InputError(
            f"layer {layer} sees {window} tokens back, so a query at position {span} cannot attend "
            "to the first token; use shorter sequences or a full-attention layer."
        )
    return first


@contextmanager
def add_vector(
    checkpoint: LoadedModel,
    vector: Tensor,
    site: Site,
    strength: float | Sequence[float] | Tensor = 1.0,
    positions: Positions | None = None,
) -> Iterator[None]:
    """Add `strength · vector` to a site. A row whose strength is 0 keeps its very bits.

    Args:
        checkpoint: the model to edit.
        vector: the site's shape for one token: [width], or [heads, head_dim].
        site: where.
        strength: one number, or one for each row of the batch.
        positions: everywhere if None; else [positions] or [batch, positions].

    Raises:
        InputError: vector, strength or positions do not fit.
    """
    vector = wide(finite(vector, "the vector"))
    factors = finite(torch.as_tensor(strength, dtype=vector.dtype), "strength")
    if factors.ndim > 1:
        raise InputError(
            f"strength has shape {tuple(factors.shape)}; give one number or one for each row."
        )
    require_width(checkpoint, site, vector)

    with edited(checkpoint, site, partial(_plus, vector, factors), positions):
        yield


def _plus(vector: Tensor, factors: Tensor, x: Tensor, _: Tensor | None) -> Tensor:
    rows = per_row(factors, x.shape[0], 0, "strength").to(x.device)
    scale = rows.reshape(-1, *[1] * (x.ndim - 1))
    added = wide(x) + scale * fitted(vector, x.shape[2:]).to(x.device)
    return torch.where(scale != 0, added.to(x.dtype), x)


@contextmanager
def patch(
    checkpoint: LoadedModel, site: Site, value: Tensor, positions: Positions | None = None
) -> Iterator[None]:
    """Overwrite a site with a given value.

    Args:
        checkpoint: the model to edit.
        site: where; `feature` below is its shape for one token.
        value: [feature], the same everywhere; with positions also [positions, feature] or
            [batch, positions, feature]; without them also [batch, length, feature], which must fit
            the pass exactly, padding included.
        positions: everywhere if None; else [positions] or [batch, positions].

    Raises:
        InputError: value or positions do not fit.
    """
    value = finite(value, "the value to patch in")
    checkpoint.require(site)

    def edit(x: Tensor, match: Tensor | None) -> Tensor:
        there = value.to(x.device, x.dtype)
        feature, extra = x.shape[2:], value.ndim - (x.ndim - 2)
        tokens = x.shape[1] if match is None else match.shape[2]
        allowed = {0: (), 1: (tokens,), 2: (x.shape[0], tokens)}
        if match is None:
            del allowed[1]
        if extra not in allowed or tuple(value.shape) != (*allowed[extra], *feature):
            shapes = " or ".join(str([*lead, *feature]) for lead in allowed.values())
            raise InputError(
                f"the value to patch in at {site.hook_name} has shape {list(value.shape)}; this "
                f"pass needs {shapes} (with a KV cache, name the positions)."
            )
        if extra == 0 or match is None:
            return there.expand(x.shape)
        which = match.long().argmax(-1)
        if extra == 1:
            return there[which]
        return there[torch.arange(x.shape[0], device=x.device)[:, None], which]

    with edited(checkpoint, site, edit, positions):
        yield


@contextmanager
def drop_massive_activation(
    checkpoint: LoadedModel,
    layer: int,
    dim: int,
    position: int | Sequence[int] | Tensor,
    value: float = 0.0,
) -> Iterator[None]:
    """Set one coordinate of the residual stream behind a layer to zero or to a mean.

    Sun et al., arXiv 2402.17762, §4: zero ruins LLaMA-2, the mean over data changes nothing.

    Args:
        checkpoint: the model to edit.
        layer: whose `resid_post` to edit, 0-based.
        dim: the coordinate, 0 ≤ dim < width.
        position: of the token; several, or [batch, positions].
        value: what to set it to.

    Raises:
        InputError: no such layer, coordinate or position.
    """
    if not 0 <= dim < checkpoint.anatomy.width:
        raise InputError(
            f"there is no dimension {dim}: the residual stream has 0 to "
            f"{checkpoint.anatomy.width - 1}."
        )
    finite(torch.tensor(value), "the value")
    where = [position] if isinstance(position, int) else position

    def edit(x: Tensor, _: Tensor | None) -> Tensor:
        here = torch.arange(x.shape[-1], device=x.device) == dim
        return torch.where(here, torch.full_like(x, value), x)

    with edited(checkpoint, Site("resid_post", layer), edit, where):
        yield


@contextmanager
def perturb_heads(
    checkpoint: LoadedModel, layer: int, heads: Heads, seed: int | Sequence[int] = 0
) -> Iterator[None]:
    """Add noise as large as what the heads write: the null of the causal panel.

    To the output of the output projection comes a random isotropic vector whose norm, for each
    token, is that of the heads' own contribution ‖Σ_h z_h W_O^h‖. The noise of a row at a position
    depends on the seed alone, so it is the same with and without a KV cache, and in any batch.

    Args:
        checkpoint: the model to edit.
        layer: 0-based.
        heads: indices, or a boolean mask [heads] or [batch, heads].
        seed: of the noise, 0 or more; a sequence gives every row of the batch its own.

    Raises:
        InputError: there are no such heads, or not one seed for each row.
    """
    checkpoint.require(Site("z", layer))
    mask = head_mask(checkpoint, layer, heads)
    out = find_projections(checkpoint.layers[layer]).out
    assert out is not None  # the anatomy declares `z` only with an output projection
    noise = Noise(seed)
    with watched(checkpoint, layer, f"the noise on heads of layer {layer}") as seen:

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            seen.fired += 1
            rows = per_row(mask, output.shape[0], 1, "heads").to(output.device)
            z = args[0].unflatten(-1, (mask.shape[-1], -1)) * rows[:, None, :, None]
            size = _without_bias(module, z.flatten(-2)).norm(dim=-1, keepdim=True)
            push = noise.at(seen.position_ids, output).to(output.device)
            return (wide(output) + size * push).to(output.dtype)

        handle = out.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()


def _without_bias(out: nn.Module, z: Tensor) -> Tensor:
    """What the output projection makes of z, less its bias.

    Through the module's own forward, past its hooks, so that neither the layout of its weight
    (GPT-2's is [in, out]), its quantisation nor its device matters.
    """
    return wide(out.forward(z)) - wide(out.forward(torch.zeros_like(z[:1, :1])))
