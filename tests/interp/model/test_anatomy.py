"""What the anatomy says of every family, and what it refuses to guess."""

import json
from typing import Any

import pytest
import torch
import transformers
from families import COMMON, CONFIGS, FAMILIES, LAYERS, WINDOW, tiny
from refused import SIZES, bypassing

from interp import UnsupportedModelError
from interp.model.anatomy import read_anatomy
from interp.model.gates import GateLayout

HYBRID = {"qwen3_next", "qwen3_5"}
SLIDING = {"gpt_oss", "gemma2", "gemma3", "afmoe"}
EVERY_HEAD_ITS_OWN_KEYS = {"gpt2", "gpt_neox"}


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_of_every_family(family: str) -> None:
    model = tiny(family)
    anatomy = read_anatomy(model)
    assert anatomy.n_layers == LAYERS
    assert (anatomy.width, anatomy.vocabulary, anatomy.context) == (32, 97, 256)
    assert anatomy.parameters == sum(p.numel() for p in model.parameters())
    assert anatomy.interface
    assert anatomy.architecture == type(model).__name__
    softmax = (1, 3) if family in HYBRID else (0, 1, 2, 3)
    assert anatomy.softmax_layers == softmax
    for index in softmax:
        layer = anatomy.layers[index]
        kv_heads = 4 if family in EVERY_HEAD_ITS_OWN_KEYS else 2
        assert (layer.heads, layer.kv_heads, layer.head_dim) == (4, kv_heads, 8)
        assert layer.learned_sink == (family == "gpt_oss")
        slides = family == "mistral" or (family in SLIDING and index % 2 == 0)
        assert (layer.attention, layer.window) == (
            ("sliding", WINDOW) if slides else ("full", None)
        )


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_norms_positions_and_soft_caps(family: str) -> None:
    anatomy = read_anatomy(tiny(family))
    both, post = {"gemma2", "gemma3", "afmoe", "lfm3"}, {"olmo2"}
    wanted = "both" if family in both else "post" if family in post else "pre"
    assert anatomy.norm_placement == wanted
    assert anatomy.parallel == (family == "gpt_neox")
    assert anatomy.rotary == (family != "gpt2")
    assert anatomy.softcap == (50.0 if family == "gemma2" else None)


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_gates(family: str) -> None:
    anatomy = read_anatomy(tiny(family))
    packed = GateLayout("per_element", "q_per_head", "sigmoid")
    wanted = {
        "qwen3_next": (packed, (1, 3)),
        "qwen3_5": (packed, (1, 3)),
        "afmoe": (GateLayout("per_element", "module", "sigmoid", "gate_proj"), (0, 1, 2, 3)),
        "lfm3": (GateLayout("per_head", "module", "sigmoid", "g_proj"), (2,)),
    }
    gate, layers = wanted.get(family, (None, ()))
    assert anatomy.gated_layers == layers
    assert all(anatomy.layers[index].gate == gate for index in layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_weight_is_needed(family: str) -> None:
    config = CONFIGS[family]()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert read_anatomy(model) == read_anatomy(tiny(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_description_is_json(family: str) -> None:
    anatomy = read_anatomy(tiny(family))
    described = json.loads(json.dumps(anatomy.to_dict()))
    assert len(described["layers"]) == LAYERS
    assert described["model_type"] == anatomy.model_type


@pytest.mark.parametrize("kind", SIZES)
def test_families_without_the_interface(kind: str) -> None:
    anatomy = read_anatomy(bypassing(kind))
    assert not anatomy.interface
    assert anatomy.n_layers == 2
    for layer in anatomy.layers:
        assert not {"z_pre_gate", "rot_q", "rot_k"} & set(layer.sites)


def with_query_rows(rows: int, **flags: bool) -> Any:
    """A Llama whose `q_proj` is as tall as a gated one's; the config may say why."""
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj = torch.nn.Linear(32, rows, bias=False)
    for name, value in flags.items():
        setattr(model.config, name, value)
    return model


@pytest.mark.parametrize("rows", [32 + 4, 2 * 32])
def test_a_packing_that_the_config_does_not_tell_is_refused(rows: int) -> None:
    with pytest.raises(UnsupportedModelError, match="per query head or per KV group") as caught:
        read_anatomy(with_query_rows(rows))
    assert caught.value.exit_code == 3


def test_the_flags_of_the_gated_attention_release() -> None:
    headwise = read_anatomy(with_query_rows(36, headwise_attn_output_gate=True))
    assert headwise.layers[0].gate == GateLayout("per_head", "q_per_group", "sigmoid")
    elementwise = read_anatomy(with_query_rows(64, elementwise_attn_output_gate=True))
    assert elementwise.layers[0].gate == GateLayout("per_element", "q_per_group", "sigmoid")


def test_an_unknown_gate_module_is_refused() -> None:
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.g_proj = torch.nn.Linear(32, 4)
    with pytest.raises(UnsupportedModelError, match="`g_proj`, which looks like an output gate"):
        read_anatomy(model)


def test_laguna_gates_are_unbounded() -> None:
    config = transformers.LagunaConfig(
        **COMMON, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    gate = read_anatomy(model).layers[0].gate
    assert gate is not None
    assert (gate.activation, gate.packing, gate.module) == ("softplus", "module", "g_proj")


def test_chunked_attention_has_a_chunk_for_a_window() -> None:
    config = transformers.Llama4TextConfig(
        **COMMON,
        head_dim=8,
        intermediate_size_mlp=48,
        num_local_experts=2,
        num_experts_per_tok=1,
        attention_chunk_size=16,
    )
    with torch.device("meta"):
        model = transformers.Llama4ForCausalLM(config)
    layers = read_anatomy(model).layers
    assert [layer.attention for layer in layers] == ["chunked", "chunked", "chunked", "full"]
    assert layers[0].window == 16 and layers[3].window is None


def test_attention_of_an_unknown_type_is_refused() -> None:
    model = tiny("gemma2")
    model.config.layer_types = ["sliding_attention", "telepathic_attention"] * 2
    with pytest.raises(UnsupportedModelError, match="'telepathic_attention' in layer 1"):
        read_anatomy(model)
