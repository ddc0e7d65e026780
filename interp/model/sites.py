"""Sites: where in the network, by TransformerLens' hook names.

`Site("resid_post", 3)` is `blocks.3.hook_resid_post`. Two names are ours, because TransformerLens
has none: `z_pre_gate` (a head's output before its gate) and, with a gate, `gate` is its raw value
before the activation (TransformerLens: `hook_q_gate`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from interp.errors import InputError
from interp.model.anatomy import Anatomy
from interp.model.gates import gate_view, query_view
from interp.model.modules import (
    attention_end,
    attention_module,
    find_projections,
    layer_path,
    mid_norm,
    mlp_end,
    softmax_input_projections,
)
from interp.model.views import by_head, whole

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

_Part = TypeVar("_Part")


class HandedOver(NamedTuple):
    """A site that the attention interface hands over: field of an `AttentionCall`, and in words."""

    field: str
    text: str


HANDED_OVER = {
    "q": HandedOver("query", "query"),
    "k": HandedOver("key", "key"),
    "rot_q": HandedOver("query", "query (after any norm and rotation)"),
    "rot_k": HandedOver("key", "key (after any norm and rotation)"),
    "v": HandedOver("value", "value"),
    "z_pre_gate": HandedOver("output", "attention output"),
}
"""What a call of the attention interface holds of sites, by name; `site_hook` is None for these."""


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
        if match := re.fullmatch(r"blocks\.([0-9]{1,9})\.(.+)", text):
            if match[2] in names:
                return cls(names[match[2]], int(match[1]))
        elif match := re.fullmatch(r"(\w+):([0-9]{1,9})", text):
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
        return Hook(module, False, *whole())
    layer = checkpoint.layers[site.layer]
    anatomy = checkpoint.anatomy.layers[site.layer]
    if site.name in ("resid_pre", "resid_post"):
        return Hook(layer, site.name == "resid_pre", *whole())
    if site.name == "resid_mid":
        return Hook(_found(mid_norm(layer)), True, *whole())
    if site.name == "mlp_out":
        return Hook(_found(mlp_end(layer)), False, *whole())
    if site.name == "attn_out":
        return Hook(_found(attention_end(layer)), False, *whole())
    attention = _found(attention_module(layer))
    if site.name == "z":
        out = _found(find_projections(layer).out)
        return Hook(out, True, *by_head(anatomy.heads))
    sizes = anatomy.heads, anatomy.kv_heads, anatomy.head_dim
    if site.name == "gate":
        gate = _found(anatomy.gate)
        return Hook(getattr(attention, gate.module), False, *gate_view(gate, *sizes))
    projection = softmax_input_projections(attention).get(site.name)
    if projection is None:
        return None
    if site.name == "q":
        return Hook(projection, False, *query_view(anatomy.gate, *sizes))
    return Hook(projection, False, *by_head(anatomy.kv_heads))


def _found(part: _Part | None) -> _Part:
    if part is None:
        raise InputError("the anatomy declares a site whose module is missing")
    return part


_SHAPES = {
    "q": "[batch, position, head, head_dim]",
    "k": "[batch, position, kv_head, head_dim]",
    "v": "[batch, position, kv_head, head_dim]",
    "rot_q": "[batch, position, head, head_dim]",
    "rot_k": "[batch, position, kv_head, head_dim]",
    "z": "[batch, position, head, head_dim]",
    "z_pre_gate": "[batch, position, head, head_dim]",
}


def _explanation(site: Site, checkpoint: "SiteOwner") -> tuple[str, str, str]:
    hook = site_hook(checkpoint, site)
    shape = _SHAPES.get(site.name, "[batch, position, width]")
    if hook is None:
        where = f"{layer_path(checkpoint.model)}.{site.layer}"
        return where, f"the {HANDED_OVER[site.name].text} handed to the attention interface", shape
    path = next(n for n, module in checkpoint.model.named_modules() if module is hook.module)
    if site.name == "gate" and site.layer is not None:
        gate = _found(checkpoint.anatomy.layers[site.layer].gate)
        return path, "output (the gate's rows, before its activation)", gate.shape
    return path, "input" if hook.before else "output", shape
