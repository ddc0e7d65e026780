"""Checkpoints that cannot be what they say."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from faults.table import (
    DEEP,
    Fault,
    both,
    config,
    cut,
    device,
    file,
    header,
    instead,
    loop,
    pipe,
    sharded,
    sock,
    sparse,
    without,
)
from safetensors.torch import load_file, save_file

PLAN = "plan {dir}/model"
DOCTOR = "doctor {dir}/model"
SINKS = "sinks {dir}/model --texts {dir}/texts.txt --out {dir}/out --length 8"


def _config(name: str, sentence: str, argv: str = PLAN, exit: int = 2, **fields: Any) -> Fault:
    return Fault(name, argv, sentence, config(**fields), exit)


def _extra(names: tuple[str, ...]) -> Any:
    def make(folder: Path) -> None:
        path = folder / "model" / "model.safetensors"
        more = {name: torch.zeros(2) for name in names}
        save_file(load_file(path) | more, path, {"format": "pt"})

    return make


class _Program:
    """What a pickle may run when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 3",)


def _pickle(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()
    torch.save({"weights": _Program()}, folder / "model" / "pytorch_model.bin")


def _larger_tokenizer(folder: Path) -> None:
    path = folder / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {"w200": 200, "w201": 201}
    path.write_text(json.dumps(content))


CONFIGS = (
    _config("no heads", "num_attention_heads 0; a whole number from 1", num_attention_heads=0),
    _config("no heads in sinks", "num_attention_heads 0", SINKS, num_attention_heads=0),
    _config(
        "7 heads", "num_attention_heads 7, which does not divide hidden_size 32",
        num_attention_heads=7, num_key_value_heads=7, head_dim=None,
    ),
    _config(
        "7 heads over 2 groups", "num_key_value_heads 2 does not divide", num_attention_heads=7
    ),
    _config(
        "7 heads in doctor", "num_key_value_heads 2 does not divide", DOCTOR, num_attention_heads=7
    ),
    _config("3 groups", "which num_key_value_heads 3 does not divide", num_key_value_heads=3),
    _config(
        "heads of other weights", "other shapes than the config asks for, first model.layers.0",
        DOCTOR, num_attention_heads=8,
    ),
    _config("negative width", "hidden_size -32; a whole number from 1", hidden_size=-32),
    _config("negative context", "max_position_embeddings -1", max_position_embeddings=-1),
    _config("no layer", "num_hidden_layers 0; a whole number from 1 to 1,000", num_hidden_layers=0),
    _config("a million layers", "num_hidden_layers 1000000; a whole", num_hidden_layers=10**6),
    _config("a million layers in sinks", "1000000; a whole", SINKS, num_hidden_layers=10**6),
    _config("3 layers over 4", "9 tensor(s), model.layers.3.input", DOCTOR, num_hidden_layers=3),
    _config("3 layers over 4 in sinks", "does not ask for", SINKS, num_hidden_layers=3),
    _config("5 layers over 4", "the weights lack 9", DOCTOR, num_hidden_layers=5),
    _config("biases that are not there", "the weights lack 16", DOCTOR, attention_bias=True),
    _config("huge vocabulary", "vocab_size 1000000000000; a whole number", vocab_size=10**12),
    _config("vocabulary over weights", "asks for 640,031,008 param", DOCTOR, vocab_size=10**7),
    _config("MLP over weights", "weights files have", DOCTOR, intermediate_size=10**7),
    _config("unknown dtype", "dtype 'float7'; it is one of float32", dtype="float7"),
    _config("unknown dtype in doctor", "dtype 'float7'", DOCTOR, dtype="float7"),
    _config("unknown torch_dtype", "torch_dtype 'Tensor'", dtype=None, torch_dtype="Tensor"),
    _config("a number as dtype", "dtype 3; it is one of", dtype=3),
    _config("text for a width", "hidden_size '32'; a whole number", hidden_size="32"),
    _config("a fraction of a layer", "num_hidden_layers 3.5; a whole", num_hidden_layers=3.5),
    _config("true layers", "num_hidden_layers True; a whole", num_hidden_layers=True),
    _config("null width", "hidden_size null; give the config", hidden_size=None),
    _config("null layers", "num_hidden_layers null", num_hidden_layers=None),
    _config("text for an epsilon", "the config cannot be read (Validation", rms_norm_eps="a"),
    _config("a list for rope", "the config cannot be read", rope_parameters=[1]),
    _config("unknown activation", "no model can be built from the config", hidden_act="nope"),
    _config("unknown family", "does not know this model type", exit=3, model_type="nope"),
    _config("an encoder", "is no causal language model", exit=3, model_type="t5"),
    Fault("empty config", PLAN, "line 1, column 1", file("model/config.json", "")),
    Fault("cut config", PLAN, "not readable JSON (line", cut("model/config.json", 0.5)),
    Fault("list as config", PLAN, "it holds a list", file("model/config.json", "[]")),
    Fault("null as config", DOCTOR, "it holds null", file("model/config.json", "null")),
    Fault("binary config", PLAN, "which is no UTF-8", file("model/config.json", b"{\x80\x81")),
    Fault("config in UTF-16", PLAN, "it is UTF-16; save it",
          file("model/config.json", "{}".encode("utf-16"))),
    Fault("deep config", PLAN, "nested more deeply", file("model/config.json", DEEP)),
    Fault("deep config in doctor", DOCTOR, "nested more deeply", file("model/config.json", DEEP)),
    Fault("config of 50 MB", PLAN, "50,000,000 bytes, more than the 10,485,760",
          instead("model/config.json", sparse(50_000_000))),
    Fault("config is a folder", PLAN, "it is a folder",
          instead("model/config.json", Path.mkdir)),
    Fault("config is a pipe", PLAN, "it is a named pipe", instead("model/config.json", pipe)),
    Fault("config is a device", DOCTOR, "it is a device", instead("model/config.json", device)),
    Fault("config is a socket", PLAN, "it is a socket", instead("model/config.json", sock)),
    Fault("config links to itself", PLAN, "has no config.json",
          instead("model/config.json", loop)),
    Fault("no config", PLAN, "has no config.json", without("model/config.json")),
    Fault("deep generation config", DOCTOR, "nested more deeply",
          file("model/generation_config.json", DEEP)),
    Fault("null generation config", DOCTOR, "it holds null",
          file("model/generation_config.json", "null")),
    Fault("end token that is no id", DOCTOR, "eos_token_id 'x'; it is a token id",
          config("generation_config.json", eos_token_id="x")),
)  # fmt: skip

WEIGHTS = (
    Fault("no weights", DOCTOR, "needs model.safetensors", without("model/model.safetensors")),
    Fault("empty weights", DOCTOR, "the weights cannot be read",
          file("model/model.safetensors", "")),
    Fault("cut weights", DOCTOR, "may be truncated", cut("model/model.safetensors", 0.5)),
    Fault("weights are a folder", DOCTOR, "it is a folder",
          instead("model/model.safetensors", Path.mkdir)),
    Fault("weights are a pipe", DOCTOR, "it is a named pipe",
          instead("model/model.safetensors", pipe)),
    Fault("weights are a device", DOCTOR, "it is a device",
          instead("model/model.safetensors", device)),
    Fault("weights link to themselves", DOCTOR, "needs model.safetensors",
          instead("model/model.safetensors", loop)),
    Fault("dtype of a weight", DOCTOR, "unknown variant `F99`",
          header({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}})),
    Fault("offsets beyond the file", DOCTOR, "the weights cannot be read",
          header({"a": {"dtype": "F32", "shape": [400], "data_offsets": [0, 1600]}})),
    Fault("no tensor", DOCTOR, "the weights cannot be read", header({})),
    Fault("deep header", DOCTOR, "the weights cannot be read",
          header(json.loads("[" * 500 + "]" * 500))),
    Fault("null index", DOCTOR, "it holds null", sharded(None)),
    Fault("index without a map", DOCTOR, "has no weight_map", sharded({"weight_map": {}})),
    Fault("index out of the folder", DOCTOR, "outside of the checkpoint's folder",
          sharded({"metadata": {}, "weight_map": {"a": "../model/a.safetensors"}})),
    Fault("index of the root", DOCTOR, "outside of the checkpoint's folder",
          sharded({"metadata": {}, "weight_map": {"a": "/etc/passwd"}})),
    Fault("index of a shard that is gone", DOCTOR, "'b.safetensors' that model.safetensors.index",
          sharded({"metadata": {}, "weight_map": {"a": "b.safetensors"}})),
    Fault("shard not in the index", DOCTOR, "the weights lack",
          both(sharded({"metadata": {}, "weight_map": {"model.norm.weight": "b.safetensors"}}),
               lambda folder: save_file({"model.norm.weight": torch.ones(32)},
                                        folder / "model" / "b.safetensors", {"format": "pt"}))),
    Fault("a bias that is left out", DOCTOR, "1 tensor(s), model.layers.0.self_attn.q_proj.bias,",
          _extra(("model.layers.0.self_attn.q_proj.bias",))),
    Fault("a pickle", DOCTOR, "the weights cannot be read", _pickle),
)  # fmt: skip

TOKENIZERS = (
    *(
        Fault(f"tokenizer {name}", SINKS, "the tokenizer cannot be read",
              file("model/tokenizer.json", content))
        for name, content in {
            "null": "null", "empty": "", "list": "[]", "of no fields": "{}",
            "deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
        }.items()
    ),
    Fault("cut tokenizer", SINKS, "the tokenizer cannot be read",
          cut("model/tokenizer.json", 0.7)),
    Fault("null tokenizer in plan", PLAN, "begins with 'null'",
          file("model/tokenizer.json", "null")),
    Fault("null tokenizer in doctor", DOCTOR, "begins with 'null'",
          file("model/tokenizer.json", "null")),
    Fault("tokenizer is a pipe", SINKS, "it is a named pipe",
          instead("model/tokenizer.json", pipe)),
    Fault("list as tokenizer config", SINKS, "it holds a list",
          file("model/tokenizer_config.json", "[]")),
    Fault("tokenizer beyond the embedding", SINKS, "2 tokens of the tokenizer have ids up to 201",
          _larger_tokenizer),
    Fault("template that is a number", SINKS, "the chat template is a int",
          config("tokenizer_config.json", chat_template=3)),
    Fault("template of bad syntax", "generate {dir}/model --prompt w5",
          "no valid Jinja (line 1:", file("model/chat_template.jinja", "{% for %}")),
    Fault("template that raises", "generate {dir}/model --prompt w5",
          "refuses these messages: no system here",
          file("model/chat_template.jinja", "{{ raise_exception('no system here') }}")),
    Fault("template option of bad syntax",
          "generate {dir}/model --prompt w5 --chat-template {dir}/bad.jinja",
          "no valid Jinja (line 2:", file("bad.jinja", "a\n{{ b")),
    Fault("template option is a pipe",
          "generate {dir}/model --prompt w5 --chat-template {dir}/bad.jinja",
          "it is a named pipe", instead("bad.jinja", pipe)),
    Fault("template option is binary",
          "generate {dir}/model --prompt w5 --chat-template {dir}/bad.jinja",
          "line 1 holds the byte 0xff", file("bad.jinja", b"\xff")),
)  # fmt: skip

FAULTS = (*CONFIGS, *WEIGHTS, *TOKENIZERS)
