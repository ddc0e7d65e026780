"""Gates: how every packing is read and written, and that an unknown one is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import COMMON, tiny
from torch import Tensor

import interp
from interp import Site, UnsupportedModelError
from interp.model.anatomy import read_anatomy
from interp.model.gates import GateLayout, gate_view, query_view
from interp.model.views import View


def view(kind: Any, packing: Any, kv_heads: int, part: str) -> View:
    of: Callable[..., View] = gate_view if part == "gate" else query_view
    return of(GateLayout(kind, packing, "sigmoid"), 4, kv_heads, 8)


def rows(kind: str, packing: str, kv_heads: int, part: str) -> Tensor:
    """Which row of `q_proj` ends up where, by feeding it its own row numbers."""
    size = 4 * 8 + (4 if kind == "per_head" else 4 * 8)
    return view(kind, packing, kv_heads, part).read(torch.arange(size)[None, None]).reshape(4, -1)


@pytest.mark.parametrize("kind", ["per_head", "per_element"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_row_maps_of_a_gate_packed_per_group(kind: str, kv_heads: int) -> None:
    """Methods §2.3: queries of a group, then its gates; head h is number r of group g."""
    group = 4 // kv_heads
    gate, query = (rows(kind, "q_per_group", kv_heads, part) for part in ("gate", "query"))
    width = 1 if kind == "per_head" else 8
    for head in range(4):
        g, r = divmod(head, group)
        start = g * group * (8 + width)
        first = start + group * 8 + r * width
        assert gate[head].tolist() == list(range(first, first + width))
        first = start + r * 8
        assert query[head].tolist() == list(range(first, first + 8))
    taken = torch.cat([gate.flatten(), query.flatten()]).sort().values
    assert torch.equal(taken, torch.arange(4 * (8 + width)))


@pytest.mark.parametrize("kind", ["per_head", "per_element"])
def test_packings_differ_unless_every_head_has_its_own_keys(kind: str) -> None:
    for part in ("query", "gate"):
        ours = rows(kind, "q_per_group", 4, part)
        assert torch.equal(ours, rows(kind, "q_per_head", 4, part))
        assert not torch.equal(rows(kind, "q_per_group", 2, part), ours)
        assert torch.equal(rows(kind, "q_per_head", 2, part), ours)


@pytest.mark.parametrize("packing", ["q_per_group", "q_per_head"])
@pytest.mark.parametrize("kind", ["per_head", "per_element"])
@pytest.mark.parametrize("part", ["query", "gate"])
def test_writing_a_packed_part_touches_only_its_rows(packing: str, kind: str, part: str) -> None:
    read, write = view(kind, packing, 2, part)
    other, _ = view(kind, packing, 2, "gate" if part == "query" else "query")
    tensor = torch.randn(2, 3, 36 if kind == "per_head" else 64)
    assert torch.equal(write(tensor, read(tensor)), tensor)
    written = write(tensor, torch.zeros_like(read(tensor)))
    assert (read(written) == 0).all()
    assert torch.equal(other(written), other(tensor))


@pytest.mark.parametrize("kind", ["per_head", "per_element"])
def test_a_gate_with_a_module_of_its_own_leaves_the_queries_alone(kind: str) -> None:
    raw = torch.randn(2, 3, 4 if kind == "per_head" else 32)
    gate, query = (view(kind, "module", 2, part) for part in ("gate", "query"))
    assert gate.read(raw).shape == ((2, 3, 4) if kind == "per_head" else (2, 3, 4, 8))
    assert torch.equal(gate.write(raw, gate.read(raw)), raw)
    queries = torch.arange(32.0)[None, None]
    assert torch.equal(query.read(queries), queries.reshape(1, 1, 4, 8))


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"kind": "per_layer"}, "kind 'per_layer' is not supported; .* per_head, per_element"),
        ({"packing": "q_per_layer"}, "packing 'q_per_layer' .* module, q_per_head, q_per_group"),
        ({"activation": "tanh"}, "activation 'tanh' .* sigmoid, softplus"),
    ],
)
def test_an_unknown_layout_is_refused(change: dict[str, Any], known: str) -> None:
    good: dict[str, Any] = {"kind": "per_head", "packing": "module", "activation": "sigmoid"}
    GateLayout(**good)
    with pytest.raises(UnsupportedModelError, match=known):
        GateLayout(**{**good, **change})


def test_a_gate_of_another_size_is_refused() -> None:
    """Laguna's gates are told apart by their rows, and 5 for 4 heads are neither kind."""
    import transformers

    config = transformers.LagunaConfig(
        **COMMON, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
        model.model.layers[0].self_attn.g_proj = torch.nn.Linear(32, 5)
    with pytest.raises(UnsupportedModelError, match="its gate has 5 rows for 4 heads of 8"):
        read_anatomy(model)


@pytest.mark.parametrize("activation", ["sigmoid", "softplus"])
def test_each_activation(activation: Any) -> None:
    raw = torch.tensor([-3.0, 0.0, 2.0])
    wanted = {"sigmoid": 1 / (1 + (-raw).exp()), "softplus": (1 + raw.exp()).log()}
    gate = GateLayout("per_head", "module", activation).activated(raw)
    torch.testing.assert_close(gate, wanted[activation])


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen3_5", "self_attn.q_proj, [batch, position, head, head_dim]"),
        ("afmoe", "self_attn.gate_proj, [batch, position, head, head_dim]"),
        ("lfm3", "self_attn.g_proj, [batch, position, head]"),
    ],
)
def test_the_site_says_where_the_gate_is(family: str, text: str) -> None:
    checkpoint = interp.load(tiny(family))
    layer = checkpoint.anatomy.gated_layers[0]
    gate = checkpoint.anatomy.layers[layer].gate
    assert gate is not None and gate.size(8) == (1 if family == "lfm3" else 8)
    assert Site("gate", layer).explain(checkpoint).endswith(text)
