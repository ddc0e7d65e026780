"""Output gates of attention: which layout a config declares, and how a layout is read and written.

This is the one module that knows how gates are packed. A new packing is a new value of `Packing`;
the type checker then names every `match` here that has to learn it.
"""

from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

import torch
from torch import Tensor, nn

from interp.errors import UnsupportedModelError
from interp.model.modules import out_features
from interp.model.views import View, by_head, whole

GateKind = Literal["per_head", "per_element"]
Packing = Literal["module", "q_per_head", "q_per_group"]
Activation = Literal["sigmoid", "softplus"]
Part = Literal["query", "gate"]


@dataclass(frozen=True)
class GateLayout:
    """Where an output gate lives and how it is packed.

    `kind` is `per_head` (one scalar for a head) or `per_element` (one for each head dimension).
    `packing` is `module` (a projection of its own, `module` names it), `q_per_head`
    (`q_proj` rows are [query | gate] for each query head: Qwen3-Next, Qwen3.5) or `q_per_group`
    (rows are [queries of a KV group | their gates]: the Gated Attention release,
    arXiv 2505.06708).

    Raises:
        UnsupportedModelError: a kind, packing or activation is none of these.
    """

    kind: GateKind
    packing: Packing
    activation: Activation
    module: str = "q_proj"

    def __post_init__(self) -> None:
        _require_known("kind", self.kind, get_args(GateKind))
        _require_known("packing", self.packing, get_args(Packing))
        _require_known("activation", self.activation, get_args(Activation))

    @property
    def within_queries(self) -> bool:
        """Whether the query projection holds the gate's rows as well as the queries."""
        match self.packing:
            case "module":
                return False
            case "q_per_head" | "q_per_group":
                return True
            case _:
                assert_never(self.packing)

    def size(self, head_dim: int) -> int:
        """Values of the gate for one head and token."""
        match self.kind:
            case "per_head":
                return 1
            case "per_element":
                return head_dim
            case _:
                assert_never(self.kind)

    @property
    def shape(self) -> str:
        """Shape of the site `gate`, in words."""
        match self.kind:
            case "per_head":
                return "[batch, position, head]"
            case "per_element":
                return "[batch, position, head, head_dim]"
            case _:
                assert_never(self.kind)

    def activated(self, raw: Tensor) -> Tensor:
        """The gate after its activation, from the value of the site `gate`."""
        match self.activation:
            case "sigmoid":
                return torch.sigmoid(raw)
            case "softplus":
                return torch.nn.functional.softplus(raw)
            case _:
                assert_never(self.activation)


def query_view(gate: GateLayout | None, heads: int, kv_heads: int, head_dim: int) -> View:
    """The queries, [..., heads, head_dim], in the output of the query projection."""
    if gate is None or not gate.within_queries:
        return by_head(heads)
    return _packed(gate, heads, kv_heads, head_dim, "query")


def gate_view(gate: GateLayout, heads: int, kv_heads: int, head_dim: int) -> View:
    """The raw gate in the output of the module that `gate.module` names."""
    if gate.within_queries:
        return _packed(gate, heads, kv_heads, head_dim, "gate")
    match gate.kind:
        case "per_head":
            return whole()
        case "per_element":
            return by_head(heads)
        case _:
            assert_never(gate.kind)


def _packed(gate: GateLayout, heads: int, kv_heads: int, dim: int, part: Part) -> View:
    """Pick queries or gates out of a `q_proj` that holds both; rows as in `GateLayout`."""
    match gate.packing:
        case "q_per_head":
            groups = heads
        case "q_per_group":
            groups = kv_heads
        case "module":
            raise UnsupportedModelError("a gate with a module of its own is not packed with q_proj")
        case _:
            assert_never(gate.packing)
    per_group = heads // groups
    sizes = [per_group * dim, per_group * gate.size(dim)]
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

    return View(read, write)


def _require_known(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UnsupportedModelError(
            f"an attention gate of {what} {given!r} is not supported; those known here are "
            f"{', '.join(known)}."
        )


_Q_PER_HEAD = GateLayout("per_element", "q_per_head", "sigmoid")
_GATE_PROJ = GateLayout("per_element", "module", "sigmoid", "gate_proj")

# Layouts read in transformers 5.23 (one modelling file each).
_KNOWN_GATES: dict[str, GateLayout] = {
    "qwen3_next": _Q_PER_HEAD,
    "qwen3_5": _Q_PER_HEAD,
    "qwen3_5_text": _Q_PER_HEAD,
    "qwen3_5_moe": _Q_PER_HEAD,
    "qwen3_5_moe_text": _Q_PER_HEAD,
    "qwen4_exp": _Q_PER_HEAD,
    "afmoe": _GATE_PROJ,
    "muse_glimmer": _GATE_PROJ,
    "muse_spark": _GATE_PROJ,
    "neomme": _GATE_PROJ,
    "hrm_text": _GATE_PROJ,
}
_MEASURED_GATE_NAMES = ("gate_proj", "g_proj", "attn_gate", "gate", "q_gate_proj")


def read_gate(config: Any, attention: nn.Module, heads: int, head_dim: int) -> GateLayout | None:
    """The output gate of one attention module; None if it has none.

    Args:
        config: transformers' configuration of the text model.
        attention: the module.
        heads: query heads.
        head_dim: of one head.

    Raises:
        UnsupportedModelError: there is a gate whose layout neither the config nor the model type
            settles.
    """
    kind = config.model_type
    if kind in _KNOWN_GATES:
        return _KNOWN_GATES[kind]
    if getattr(config, "headwise_attn_output_gate", False):
        return GateLayout("per_head", "q_per_group", "sigmoid")
    if getattr(config, "elementwise_attn_output_gate", False):
        return GateLayout("per_element", "q_per_group", "sigmoid")
    if kind in {"step3p7", "step3p7_text"}:
        if getattr(config, "gating", None) not in (True, "per-head"):
            raise UnsupportedModelError(
                f"{kind} with gating={getattr(config, 'gating', None)!r} is not supported: only "
                "its per-head gate (gating=True) has a known layout."
            )
        return GateLayout("per_head", "module", "sigmoid", "g_proj")
    if kind == "lfm3":
        on = getattr(attention, "g_proj", None) is not None
        return GateLayout("per_head", "module", "sigmoid", "g_proj") if on else None
    if kind == "laguna":
        rows = out_features(attention.get_submodule("g_proj"))
        return GateLayout(_kind_of(kind, rows, heads, head_dim), "module", "softplus", "g_proj")
    _refuse_unknown_gate(kind, attention, heads, head_dim)
    return None


def _kind_of(model_type: str, rows: int, heads: int, head_dim: int) -> GateKind:
    if rows == heads:
        return "per_head"
    if rows == heads * head_dim:
        return "per_element"
    raise UnsupportedModelError(
        f"{model_type}: its gate has {rows} rows for {heads} heads of {head_dim}, which is neither "
        "one for each head nor one for each head dimension."
    )


def _refuse_unknown_gate(kind: str, attention: nn.Module, heads: int, head_dim: int) -> None:
    for name in _MEASURED_GATE_NAMES:
        if getattr(attention, name, None) is not None:
            raise UnsupportedModelError(
                f"{kind} has an attention module `{name}`, which looks like an output gate of a "
                "layout that is not known here; a guessed layout would print wrong numbers."
            )
    q_proj = getattr(attention, "q_proj", None)
    if q_proj is None or not hasattr(q_proj, "weight"):
        return
    extra = out_features(q_proj) - heads * head_dim
    if extra in (heads, heads * head_dim):
        raise UnsupportedModelError(
            f"{kind}: q_proj has {out_features(q_proj)} rows for {heads} heads of {head_dim}, "
            "which looks like a gate packed with the queries, but the config does not say whether "
            "it is packed per query head or per KV group; set headwise_attn_output_gate or "
            "elementwise_attn_output_gate in the config if it is the Gated Attention layout."
        )
