"""The machinery under the interventions: hooks that edit a site, out of place, and leave no trace.

An edit is a function of the site's tensor [batch, length, ...]. It sees whatever tokens the model
is fed in this step, so an edit that names positions compares them with the `position_ids` that the
decoder layer receives; the number of tokens in a step says nothing once there is a KV cache.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.attention.statistics import AttentionCall, Tap, observe
from interp.errors import InputError, UnsupportedModelError
from interp.model.loaded import LoadedModel
from interp.model.sites import Hook, Site, site_hook

# The site's tensor and, where positions were asked for, which of them each token is
# [batch, length, positions]; returns a tensor of the same shape.
TensorEdit = Callable[[Tensor, Tensor | None], Tensor]
Positions = Sequence[int] | Tensor
Heads = Sequence[int] | Tensor


class Pass:
    """What is known of the forward pass that is under way, and whether the edit came to act."""

    def __init__(self, checkpoint: LoadedModel, what: str) -> None:
        self.what = what
        self.forwards = 0
        self.fired = 0
        self.touched: Tensor | None = None
        self.attention_mask: Any = None
        self.position_ids: Tensor | None = None
        self._signature = inspect.signature(decoder(checkpoint).forward)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the attention mask of a pass that starts; a pre-hook of the decoder."""
        self.forwards += 1
        given = self._signature.bind_partial(*args, **kwargs).arguments
        self.attention_mask = given.get("attention_mask", kwargs.get("attention_mask"))

    def locate(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the positions of this step's tokens; a pre-hook of the decoder layer."""
        self.position_ids = kwargs.get("position_ids")

    def match(self, wanted: Tensor, batch: int) -> Bool[Tensor, "batch length positions"]:
        """Which token is which of the `wanted` positions ([positions] or [batch, positions]).

        Raises:
            InputError: `wanted` has rows, but not one for each row of the batch.
            UnsupportedModelError: the layers are not told their positions.
        """
        if self.position_ids is None:
            raise UnsupportedModelError(
                "this family's decoder layers receive no position_ids, so an edit cannot be bound "
                "to positions; leave positions out to edit every token."
            )
        here = self.position_ids.expand(batch, -1)
        rows = per_row(wanted, batch, 1, "positions").to(here.device)
        found = here[:, :, None] == rows[:, None, :]
        hit = found.any()
        self.touched = hit if self.touched is None else self.touched | hit
        return found

    def verify(self) -> None:
        """Refuse an edit that did nothing in a pass that ran.

        Raises:
            InputError: the hook never fired, or no token had one of the positions.
        """
        if not self.forwards:
            return
        if not self.fired:
            raise InputError(
                f"{self.what} did nothing: the model ran {self.forwards} time(s), but this part of "
                "it never did; is the layer skipped, or did the pass stop before it?"
            )
        if self.touched is not None and not bool(self.touched):
            raise InputError(
                f"{self.what} did nothing: no token of the {self.forwards} pass(es) had one of the "
                "positions asked for; they count from the first real token, which is 0."
            )


@contextmanager
def watched(checkpoint: LoadedModel, layer: int, what: str) -> Iterator[Pass]:
    """Follow the forward passes; on a clean exit, refuse an edit that never acted."""
    seen = Pass(checkpoint, what)
    handles = [
        decoder(checkpoint).register_forward_pre_hook(seen.begin, with_kwargs=True),
        checkpoint.layers[layer].register_forward_pre_hook(seen.locate, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
    seen.verify()


@contextmanager
def edited(
    checkpoint: LoadedModel, site: Site, edit: TensorEdit, positions: Positions | None = None
) -> Iterator[None]:
    """Pass a site's tensor through `edit`, at the given positions or everywhere.

    Raises:
        InputError: the site does not exist, cannot be written, or never fired.
    """
    hook = site_hook(checkpoint, site)
    wanted = None if positions is None else position_tensor(positions)
    if wanted is not None and site.name == "embed":
        raise InputError(
            "the embedding is not told its positions; write resid_pre:0 instead of embed."
        )
    layer = checkpoint.anatomy.n_layers - 1 if site.layer is None else site.layer
    with watched(checkpoint, layer, f"the edit of {site.hook_name}") as seen:
        at_site = partial(_at_positions, seen, edit, wanted)
        if hook is not None:
            handle = attach(hook, at_site)
            try:
                yield
            finally:
                handle.remove()
        else:
            with _edited_by_tap(checkpoint, site, at_site):
                yield


def _at_positions(seen: Pass, edit: TensorEdit, wanted: Tensor | None, tensor: Tensor) -> Tensor:
    """The site's tensor with the edit at the tokens that are wanted, or at all."""
    seen.fired += 1
    if wanted is None:
        return edit(tensor, None)
    match = seen.match(wanted, tensor.shape[0])
    chosen = match.any(-1).reshape(*match.shape[:2], *[1] * (tensor.ndim - 2))
    return torch.where(chosen, edit(tensor, match), tensor)


@contextmanager
def _edited_by_tap(
    checkpoint: LoadedModel, site: Site, edit: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Edit what the attention interface hands over; only its output has not been used by then."""
    if site.name != "z_pre_gate" or site.layer is None:
        raise InputError(
            f"{site.hook_name} can be read but not edited in {checkpoint.anatomy.architecture}; "
            "edit z_pre_gate, z or attn_out instead."
        )

    def receive(call: AttentionCall) -> None:
        call.output = edit(call.output.transpose(1, 2)).transpose(1, 2)

    with observe(checkpoint.model, checkpoint.anatomy, {site.layer: Tap(receive)}):
        yield


@dataclass(frozen=True)
class _Writer:
    """Puts an edited tensor in a site's place; a method a kind of hook."""

    hook: Hook
    edit: Callable[[Tensor], Tensor]

    def changed(self, tensor: Tensor) -> Tensor:
        """The tensor that holds the site, edited there."""
        edited = self.edit(self.hook.read(tensor))
        return self.hook.write(tensor, edited.to(tensor.dtype))

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For a site that is an input."""
        if args:
            return (self.changed(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.changed(kwargs["hidden_states"])}

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """For a site that is an output."""
        if isinstance(output, tuple):
            return (self.changed(output[0]), *output[1:])
        return self.changed(output)


def attach(hook: Hook, edit: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Register a module hook that replaces the site's tensor by an edited one."""
    writer = _Writer(hook, edit)
    if hook.before:
        return hook.module.register_forward_pre_hook(writer.before, with_kwargs=True)
    return hook.module.register_forward_hook(writer.after)


def decoder(checkpoint: LoadedModel) -> nn.Module:
    """The module that loops over the decoder layers."""
    return next(
        module
        for module in checkpoint.model.modules()
        if any(child is checkpoint.layers for child in module.children())
    )


def position_tensor(positions: Positions) -> Tensor:
    """Positions as integers, [positions] or [batch, positions].

    Raises:
        InputError: none, negative or repeated positions, or no whole numbers.
    """
    wanted = torch.as_tensor(positions)
    if wanted.ndim not in (1, 2) or wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise InputError(
            f"positions of shape {tuple(wanted.shape)} and type {wanted.dtype} are no list of "
            "whole numbers; give [positions] or [batch, positions], counted from 0."
        )
    if wanted.numel() == 0:
        raise InputError("positions is empty; leave it out to edit every token.")
    if bool((wanted < 0).any()):
        raise InputError(
            "positions count from the first real token, which is 0; a negative one means nothing "
            "while tokens are still being generated."
        )
    ordered = wanted.sort(-1).values
    if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        raise InputError("positions repeats a position; name each one once.")
    return wanted


def head_mask(checkpoint: LoadedModel, layer: int, heads: Heads) -> Tensor:
    """Heads as a boolean mask, [heads] or [batch, heads].

    Raises:
        InputError: no head, or one that the layer does not have.
    """
    count = checkpoint.anatomy.layers[layer].heads
    chosen = torch.as_tensor(heads)
    if chosen.dtype == torch.bool:
        if chosen.ndim not in (1, 2) or chosen.shape[-1] != count:
            raise InputError(
                f"the mask of heads has shape {tuple(chosen.shape)}; layer {layer} needs [{count}] "
                f"or [batch, {count}]."
            )
        return chosen
    if chosen.numel() == 0 or chosen.ndim != 1 or chosen.is_floating_point():
        raise InputError(f"heads must be a list of indices, 0 to {count - 1}; got {heads!r}.")
    if bool(((chosen < 0) | (chosen >= count)).any()):
        raise InputError(f"layer {layer} has heads 0 to {count - 1}; got {chosen.tolist()}.")
    mask = torch.zeros(count, dtype=torch.bool)
    mask[chosen] = True
    return mask


def per_row(values: Tensor, batch: int, features: int, what: str) -> Tensor:
    """Values with `features` trailing axes, for one row or for each, as [batch or 1, ...].

    Raises:
        InputError: there are rows, but not one for each row of the batch.
    """
    if values.ndim == features:
        return values[None]
    if values.shape[0] != batch:
        raise InputError(
            f"{what} has {values.shape[0]} row(s), but the batch has {batch}; give one for each "
            "row, or one for all."
        )
    return values


def finite(values: Tensor, what: str) -> Tensor:
    """The values, detached; refused if any is NaN or infinite.

    Raises:
        InputError: naming what was not finite.
    """
    values = values.detach()
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{what} has NaN or infinite entries.")
    return values


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32, in which edits are computed."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


_WIDTH_SITES = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embed"}


def require_width(checkpoint: LoadedModel, site: Site, vector: Tensor) -> None:
    """Refuse a vector of the wrong width before anything runs, where the width is known."""
    checkpoint.require(site)
    if site.name in _WIDTH_SITES or site.name == "final_norm":
        fitted(vector, torch.Size([checkpoint.anatomy.width]))


def fitted(vector: Tensor, feature: torch.Size) -> Tensor:
    """The vector in a site's shape for one token."""
    if vector.numel() != feature.numel():
        raise InputError(
            f"the vector has {vector.numel()} entries, but the site has {feature.numel()} "
            f"({' × '.join(str(size) for size in feature)}) for each token."
        )
    return vector.reshape(feature)
