"""What transformers' own eager attention shows of a few rows, for float64 loops over it."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from families import tiny

import interp
from interp.capture.recorder import EMBED, FINAL, RowRecords
from interp.capture.run import capture
from interp.checkpoint import Checkpoint
from interp.data.rows import Rows, id_rows

FAMILIES = ["llama", "qwen3_5", "afmoe", "lfm3", "gpt_oss", "gpt2", "mistral", "gemma2"]
GATED = ["qwen3_5", "afmoe", "lfm3"]
LENGTHS = (6, 19, 20, 20)
# float32 on both sides: what recipes and eager may differ by, relative to the largest value.
TOLERANCE = 1e-5
Array = np.ndarray[Any, Any]
Reference = dict[tuple[str, int], list[Any]]


@dataclass
class Layer:
    """One softmax layer of one row, heads first, as transformers computed it."""

    weights: Array
    query: Array
    key: Array
    value: Array
    scale: float
    slices: Array
    z: Array
    window: int | None
    gate: Array | None = None
    """After the sigmoid, [T, heads, dim] or [T, heads, 1]."""

    def own_value(self, head: int) -> Array:
        """The value states [T, dim] that a query head reads."""
        groups = len(self.weights) // len(self.value)
        return self.value[head // groups]


@dataclass
class Seen:
    """One row: softmax layers, and hidden states by layer (EMBED and FINAL at the ends)."""

    layers: dict[int, Layer] = field(default_factory=dict)
    hidden: dict[int, Array] = field(default_factory=dict)


@contextmanager
def _watched(model: Any) -> Iterator[dict[tuple[str, int], Any]]:
    """Record calls of the modelling file's eager function, and the tensors around them."""
    seen: dict[tuple[str, int], Any] = {}
    decoder = model.transformer if hasattr(model, "transformer") else model.model
    blocks = decoder.h if hasattr(decoder, "h") else decoder.layers
    home = sys.modules[type(blocks[1]).__module__]
    own = home.eager_attention_forward

    def spy(module: Any, query: Any, key: Any, value: Any, mask: Any = None, **kwargs: Any) -> Any:
        mask = kwargs.pop("attention_mask", mask)
        output, weights = own(module, query, key, value, mask, **kwargs)
        seen["call", module.layer_idx] = (query[0], key[0], value[0], weights[0], kwargs)
        return output, weights

    def keep(name: str, layer: int, before: bool = False) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any = None) -> None:
            tensor = args[0] if before else output
            seen[name, layer] = (tensor[0] if isinstance(tensor, tuple) else tensor)[0]

        return hook

    with ExitStack() as stack:
        stack.callback(setattr, home, "eager_attention_forward", own)
        home.eager_attention_forward = spy
        handles = [model.get_input_embeddings().register_forward_hook(keep("hidden", EMBED))]
        names = ("norm", "ln_f", "embedding_norm")
        norm = next(getattr(decoder, name) for name in names if hasattr(decoder, name))
        handles.append(norm.register_forward_hook(keep("hidden", FINAL)))
        for index, block in enumerate(blocks):
            handles.append(block.register_forward_hook(keep("hidden", index)))
            attention = getattr(block, "self_attn", None) or getattr(block, "attn", None)
            if attention is None:
                continue
            out = attention.c_proj if hasattr(attention, "c_proj") else attention.o_proj
            handles.append(out.register_forward_pre_hook(keep("z", index, before=True)))
            gate = getattr(attention, "gate_proj", None) or getattr(attention, "g_proj", None)
            if gate is None and model.config.model_type == "qwen3_5_text":
                gate = attention.q_proj
            if gate is not None:
                handles.append(gate.register_forward_hook(keep("gate", index)))
        for handle in handles:
            stack.callback(handle.remove)
        yield seen


def _slices(model: Any, layer: int, heads: int) -> Array:
    """W_O^h of each head, [heads, width, dim], cut out by hand."""
    if model.config.model_type == "gpt2":
        weight = model.transformer.h[layer].attn.c_proj.weight.detach().numpy().T
    else:
        weight = model.model.layers[layer].self_attn.o_proj.weight.detach().numpy()
    dim = weight.shape[1] // heads
    return np.stack([weight[:, h * dim : (h + 1) * dim] for h in range(heads)]).astype(np.float64)


def _gate(model: Any, raw: torch.Tensor | None, heads: int, dim: int) -> Array | None:
    if raw is None:
        return None
    if model.config.model_type == "qwen3_5_text":
        raw = raw.view(len(raw), heads, 2 * dim)[..., dim:]
    scores = raw.double().sigmoid()
    return scores.reshape(len(raw), heads, -1).numpy()


@cache
def seen(family: str) -> list[Seen]:
    """Each row alone through the eager model, everything in float64."""
    model = tiny(family)
    model.set_attn_implementation("eager")
    found = []
    for row in rows_of(family).rows:
        this = Seen()
        with _watched(model) as raw, torch.inference_mode():
            model(torch.tensor([row.ids]), use_cache=False)
        for (name, layer), value in raw.items():
            if name == "hidden":
                this.hidden[layer] = value.double().numpy()
            if name == "call":
                query, key, values, weights, kwargs = value
                heads, dim = query.shape[0], query.shape[-1]
                this.layers[layer] = Layer(
                    weights.double().numpy(),
                    query.double().numpy(),
                    key.double().numpy(),
                    values.double().numpy(),
                    kwargs["scaling"],
                    _slices(model, layer, heads),
                    raw["z", layer].double().reshape(len(row), heads, -1).numpy(),
                    kwargs.get("sliding_window"),
                    _gate(model, raw.get(("gate", layer)), heads, dim),
                )
        found.append(this)
    return found


@cache
def checkpoint_of(family: str) -> Checkpoint:
    return interp.load(tiny(family))


@cache
def rows_of(family: str) -> Rows:
    random = np.random.default_rng(3)
    ids = [random.integers(3, 97, length).tolist() for length in LENGTHS]
    return id_rows(checkpoint_of(family), {"ids": ids})


def record(family: str, recorder: Any) -> RowRecords:
    # 60 tokens put the rows of 19, 20 and 20 into one padded batch.
    capture(checkpoint_of(family), rows_of(family), [recorder], batch_tokens=60)
    return recorder.result()


def agree(records: RowRecords, reference: Reference) -> None:
    """Every recorded number, and nothing but these, within TOLERANCE of the reference."""
    found = {(name, layer) for name, layers in records.by_layer.items() for layer in layers}
    assert found == set(reference)
    for (name, layer), rows in reference.items():
        for number, wanted in enumerate(rows):
            wanted = np.asarray(wanted, dtype=np.float64)
            given = np.asarray(records.at(name, layer)[number], dtype=np.float64)
            if given.shape != wanted.shape:
                assert np.isnan(given[..., wanted.shape[-1] :]).all()
                given = given[..., : wanted.shape[-1]]
            largest = max(1.0, float(np.nanmax(np.abs(wanted), initial=0.0)))
            np.testing.assert_allclose(
                given, wanted, rtol=0, atol=TOLERANCE * largest, err_msg=f"{name} {layer} {number}"
            )


def by_head(family: str, quantities: dict[str, Callable[[Layer, int], Any]]) -> Reference:
    """Apply functions of (layer, head) to every row."""
    reference: Reference = {}
    for row in seen(family):
        for index, layer in row.layers.items():
            for name, function in quantities.items():
                values = [function(layer, head) for head in range(len(layer.weights))]
                reference.setdefault((name, index), []).append(values)
    return reference


def mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def norm(vector: Array) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def entropy_of(weights: Array) -> float:
    total = sum(weights)
    return -sum(p / total * math.log(p / total) for p in weights if p > 0)
