"""Sites: where in the network, by TransformerLens' hook names.

`Site("resid_post", 3)` is `blocks.3.hook_resid_post`. Two names are ours, because TransformerLens
has none: `z_pre_gate` (a head's output before its gate) and, with a gate, `gate` is its raw value
before the activation (TransformerLens: `hook_q_gate`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.model.anatomy import Anatomy, GateLayout, LayerAnatomy
from interp.model.modules import (
    attention_end,
    attention_module,
    find_projections,
    layer_path,
    mid_norm,
    mlp_end,
    softmax_input_projections,
)

_BLOCK_NAMES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "z": "attn.hook_z",
    "z_pre_gate": "attn.hook_z_pre_gate",
    "gate": "attn.hook_q_gate",
}
_MODEL_NAMES = {"embed": "hook_embed", "final_norm": "ln_final.hook_out"}


def layer_ranges(layers: Iterable[int | None]) -> str:
    """Layers in short, such as `0-3, 7`; runs of three or more become ranges."""
    runs: list[list[int]] = []
    for layer in sorted(layer for layer in layers if layer is not None):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts)


@dataclass(frozen=True, order=True)
class Site:
    """A place in the network; `layer` is 0-based and None for `embed` and `final_norm`."""

    name: str
    layer: int | None = None

    def __post_init__(self) -> None:
        known = _BLOCK_NAMES if self.layer is not None else _MODEL_NAMES
        if self.name not in known:
            where = "of a layer" if self.layer is not None else "outside the layers"
            raise InputError(f"{self.name!r} is not a site {where}; those are {', '.join(known)}.")

    @property
    def hook_name(self) -> str:
        """TransformerLens' name."""
        if self.layer is None:
            return _MODEL_NAMES[self.name]
        return f"blocks.{self.layer}.{_BLOCK_NAMES[self.name]}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read `blocks.3.hook_resid_post` or `resid_post:3`.

        Raises:
            InputError: the text names no site.
        """
        names = {hook: name for name, hook in _BLOCK_NAMES.items()}
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", text):
            if match[2] in names:
                return cls(names[match[2]], int(match[1]))
        elif match := re.fullmatch(r"(\w+):(\d+)", text):
            return cls(match[1], int(match[2]))
        for name, hook in _MODEL_NAMES.items():
            if text in (name, hook):
                return cls(name)
        raise InputError(
            f"{text!r} names no site; write resid_post:3 or blocks.3.hook_resid_post, with one of "
            f"{', '.join(_BLOCK_NAMES)}, or embed or final_norm."
        )

    def explain(self, checkpoint: "SiteOwner") -> str:
        """Say which tensor of which module this is, and its shape.

        Raises:
            InputError: the checkpoint has no such site.
        """
        checkpoint.require(self)
        path, tensor, shape = _explanation(self, checkpoint)
        return f"{self.hook_name}: {tensor} of {path}, {shape}"


@dataclass(frozen=True)
class Hook:
    """How to read, and where to edit, a site with a module hook.

    `before` says that the site is the module's input. `read` turns the module's tensor into the
    site's; `write` puts an edited value back into it.
    """

    module: nn.Module
    before: bool
    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]


class SiteOwner(Protocol):
    """What a site is looked up in: a checkpoint, which itself imports this module."""

    @property
    def model(self) -> nn.Module:
        """The whole model."""

    @property
    def anatomy(self) -> Anatomy:
        """Which sites there are."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer."""

    def require(self, site: Site) -> None:
        """Raise an InputError for a site that there is not."""


def site_hook(checkpoint: "SiteOwner", site: Site) -> Hook | None:
    """The module hook of a site; None if only the attention interface hands it over.

    Raises:
        InputError: the checkpoint has no such site.
    """
    checkpoint.require(site)
    if site.layer is None:
        module = checkpoint.embedding if site.name == "embed" else checkpoint.final_norm
        return Hook(module, False, _same, _replace)
    layer = checkpoint.layers[site.layer]
    anatomy = checkpoint.anatomy.layers[site.layer]
    if site.name in ("resid_pre", "resid_post"):
        return Hook(layer, site.name == "resid_pre", _same, _replace)
    if site.name == "resid_mid":
        return Hook(_found(mid_norm(layer)), True, _same, _replace)
    if site.name == "mlp_out":
        return Hook(_found(mlp_end(layer)), False, _same, _replace)
    if site.name == "attn_out":
        return Hook(_found(attention_end(layer)), False, _same, _replace)
    attention = _found(attention_module(layer))
    if site.name == "z":
        out = _found(find_projections(layer).out)
        return Hook(out, True, *_heads(anatomy.heads))
    if site.name == "gate":
        return _gate_hook(attention, anatomy)
    projection = softmax_input_projections(attention).get(site.name)
    if projection is None:
        return None
    if site.name == "q" and anatomy.gate is not None and anatomy.gate.packing != "module":
        return Hook(projection, False, *_packed(anatomy, anatomy.gate, "query"))
    heads = anatomy.heads if site.name == "q" else anatomy.kv_heads
    return Hook(projection, False, *_heads(heads))


def _gate_hook(attention: nn.Module, anatomy: LayerAnatomy) -> Hook:
    gate = anatomy.gate
    if gate is None:
        raise InputError("this layer has no gate")
    module = getattr(attention, gate.module)
    if gate.packing != "module":
        return Hook(module, False, *_packed(anatomy, gate, "gate"))
    if gate.kind == "per_head":
        return Hook(module, False, _same, _replace)
    return Hook(module, False, *_heads(anatomy.heads))


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _replace(tensor: Tensor, value: Tensor) -> Tensor:
    return value.reshape(tensor.shape)


def _heads(
    heads: int,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    def read(tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (heads, -1))

    return read, _replace


def _packed(
    anatomy: LayerAnatomy, gate: GateLayout, part: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Pick queries or gates out of a `q_proj` that holds both; rows as in `GateLayout`."""
    heads, dim = anatomy.heads, anatomy.head_dim
    groups = heads if gate.packing == "q_per_head" else anatomy.kv_heads
    per_group = heads // groups
    gate_size = per_group * (1 if gate.kind == "per_head" else dim)
    sizes = [per_group * dim, gate_size]
    index = 0 if part == "query" else 1

    def read(tensor: Tensor) -> Tensor:
        block = tensor.unflatten(-1, (groups, -1)).split(sizes, dim=-1)[index]
        if part == "gate" and gate.kind == "per_head":
            return block.flatten(-2)
        return block.unflatten(-1, (per_group, dim)).flatten(-3, -2)

    def write(tensor: Tensor, value: Tensor) -> Tensor:
        blocks = list(tensor.unflatten(-1, (groups, -1)).split(sizes, dim=-1))
        blocks[index] = value.reshape(blocks[index].shape)
        return torch.cat(blocks, -1).flatten(-2)

    return read, write


def _found(module: nn.Module | None) -> nn.Module:
    if module is None:
        raise InputError("the anatomy declares a site whose module is missing")
    return module


_SHAPES = {
    "q": "[batch, position, head, head_dim]",
    "k": "[batch, position, kv_head, head_dim]",
    "v": "[batch, position, kv_head, head_dim]",
    "rot_q": "[batch, position, head, head_dim]",
    "rot_k": "[batch, position, kv_head, head_dim]",
    "z": "[batch, position, head, head_dim]",
    "z_pre_gate": "[batch, position, head, head_dim]",
}
_HANDED_OVER = {
    "q": "query",
    "k": "key",
    "rot_q": "query (after any norm and rotation)",
    "rot_k": "key (after any norm and rotation)",
    "v": "value",
    "z_pre_gate": "attention output",
}


def _explanation(site: Site, checkpoint: "SiteOwner") -> tuple[str, str, str]:
    hook = site_hook(checkpoint, site)
    shape = _SHAPES.get(site.name, "[batch, position, width]")
    if hook is None:
        where = f"{layer_path(checkpoint.model)}.{site.layer}"
        return where, f"the {_HANDED_OVER[site.name]} handed to the attention interface", shape
    path = next(n for n, module in checkpoint.model.named_modules() if module is hook.module)
    if site.name == "gate" and site.layer is not None:
        gate = checkpoint.anatomy.layers[site.layer].gate
        per_head = gate is not None and gate.kind == "per_head"
        shape = "[batch, position, head" + ("]" if per_head else ", head_dim]")
        return path, "output (the gate's rows, before its activation)", shape
    return path, "input" if hook.before else "output", shape
