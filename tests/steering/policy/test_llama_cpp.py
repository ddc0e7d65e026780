"""An exported control vector in llama.cpp itself: the same logits as the policy here.

Runs where `llama-cpp-python` is installed. It is no requirement, for it compiles for minutes where
there is no wheel for the machine.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from interp.checkpoint import Checkpoint
from interp.model.sites import Site
from interp.resolve import load
from steering import act_add
from steering.policy.export import export_policy
from steering.policy.policy import Policy
from steering.runtime.runtime import apply
from steering.runtime.span import Span

llama_cpp: Any = pytest.importorskip("llama_cpp")

LAYERS, WIDTH, HEADS, KEYS, INNER, VOCABULARY = 4, 64, 4, 2, 96, 48
IDS = [3, 17, 40, 8, 25, 31]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=64,
        rope_theta=10000.0,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return load(LlamaForCausalLM(config).eval())


@pytest.fixture(scope="module")
def context(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same model in llama.cpp."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    _write(checkpoint.model, path)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    assert model, "llama.cpp did not read the model"
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads = 64, 64, 1
    # The cache and flash attention are in half precision otherwise.
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    opened = llama_cpp.llama_init_from_model(model, params)
    yield opened
    llama_cpp.llama_free(opened)
    llama_cpp.llama_model_free(model)


def _write(model: LlamaForCausalLM, path: Path) -> None:
    """A GGUF file of a Llama; its rotary pairs are neighbours there and half a head apart here."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        for projection, heads in (("q_proj", HEADS), ("k_proj", KEYS)):
            if projection in name:
                halves = tensor.view(heads, 2, -1, WIDTH)
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
        stem = name.removesuffix(".weight")
        writer.add_tensor(f"{names.get_name(stem)}.weight", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _logits(context: Any, vectors: np.ndarray | None) -> torch.Tensor:
    """Logits [tokens, vocabulary] under a control vector [layers − 1, width] from block 1 on."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    data = None if vectors is None else np.ascontiguousarray(vectors, np.float32)
    pointer = None if data is None else data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    size = 0 if data is None else data.size
    assert llama_cpp.llama_set_adapter_cvec(context, pointer, size, WIDTH, 1, LAYERS - 1) == 0
    batch = llama_cpp.llama_batch_init(len(IDS), 0, 1)
    batch.n_tokens = len(IDS)
    for place, token in enumerate(IDS):
        batch.token[place], batch.pos[place] = token, place
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.logits[place] = True
    assert llama_cpp.llama_decode(context, batch) == 0
    rows = [
        np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, place), (VOCABULARY,)).copy()
        for place in range(len(IDS))
    ]
    llama_cpp.llama_batch_free(batch)
    return torch.tensor(np.stack(rows))


def _read(path: Path) -> np.ndarray:
    """What llama.cpp's own loader makes of a file: `direction.i` in row i − 1, zero elsewhere."""
    vectors = np.zeros((LAYERS - 1, WIDTH), np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        vectors[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return vectors


def _policy(checkpoint: Checkpoint, *sites: Site) -> Policy:
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(len(sites), WIDTH, generator=generator)
    return act_add(list(sites), directions, 1.5, Span.everything()).bound(checkpoint)


@pytest.mark.parametrize(
    "sites",
    [
        [Site("resid_post", 1)],
        [Site("resid_post", LAYERS - 1)],
        [Site("resid_post", 1), Site("resid_pre", 3)],
    ],
)
def test_llama_cpp_steers_as_the_policy_does(
    checkpoint: Checkpoint, context: Any, tmp_path: Path, sites: list[Site]
) -> None:
    policy = _policy(checkpoint, *sites)
    export_policy(policy, "gguf", tmp_path / "vector.gguf")
    ids = torch.tensor([IDS])
    with torch.no_grad():
        plain = checkpoint.model(ids).logits[0]
        with apply(checkpoint, policy):
            steered = checkpoint.model(ids).logits[0]
    torch.testing.assert_close(_logits(context, None), plain, rtol=1e-4, atol=1e-4)
    found = _logits(context, _read(tmp_path / "vector.gguf"))
    torch.testing.assert_close(found, steered, rtol=1e-4, atol=1e-4)
    assert float((steered - plain).abs().max()) > 0.1
