"""Collections for the tests: of the chat organism's prompts, and planted without a model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from interp import organisms
from probes.collections.collection import Collection

ORIGIN = {
    "model": "planted",
    "revision": None,
    "fingerprint": "0" * 16,
    "tokenizer_hash": "1" * 16,
    "model_type": "none",
    "dtype": "float32",
    "width": 8,
    "layers": 4,
}


def chat_prompts(path: Path, each: int = 40) -> Path:
    """The organism's harmful and harmless prompts as .jsonl, from three sources."""
    found = organisms.prompts("chat")
    lines = [
        {
            "messages": [dict(message) for message in prompt.messages],
            "label": label,
            "source": "abc"[number % 3],
            "harmful": label == "harmful",
            "number": number,
            "tags": ["no", "scalar"],
        }
        for label in ("harmful", "harmless")
        for number, prompt in enumerate(found[label][:each])
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def planted(
    folder: Path,
    *,
    n: int = 120,
    lengths: tuple[int, int] = (1, 1),
    signal: Sequence[float] = (0.0, 2.5, 0.0, 1.5),
    spread: bool = True,
    seed: int = 0,
    **columns: Any,
) -> Collection:
    """A collection whose layers carry the label along one direction each.

    Args:
        folder: to be written.
        n: prompts, of alternating label 0 and 1.
        lengths: least and most tokens of a prompt.
        signal: of each layer, in standard deviations.
        spread: over all tokens; else it stands in one of them.
        seed: of the noise; directions are always the same.
        **columns: of the table, further ones or in place of its own.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    counts = rng.integers(lengths[0], lengths[1] + 1, n)
    rows = np.repeat(np.arange(n), counts)
    positions = np.concatenate([np.arange(count) for count in counts])
    marked = np.concatenate([np.arange(count) == rng.integers(count) for count in counts])
    for layer, size in enumerate(signal):
        direction = np.random.default_rng(100 + layer).normal(size=8)
        direction /= np.linalg.norm(direction)
        values = rng.normal(size=(len(rows), 8))
        values += size * (y[rows] * (1 if spread else marked))[:, None] * direction
        own = folder / f"layer-{layer:03d}"
        own.mkdir(parents=True)
        tensors = {
            "values": torch.tensor(values, dtype=torch.float32),
            "rows": torch.tensor(rows),
            "positions": torch.tensor(positions),
        }
        save_file(tensors, own / "shard.safetensors")
        index = {
            "format_version": 1,
            "kind": "activations",
            "shards": {"shard.safetensors": len(rows)},
        }
        (own / "index.json").write_text(json.dumps(index))
    keys = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(n)]
    table = {"index": range(n), "label": y, "source": ["abc"[i // 2 % 3] for i in range(n)]}
    words = np.random.default_rng(200 + seed).integers(20, size=(n, 4))  # that tell nothing
    table |= {"text": [" ".join(f"w{i}" for i in some) for some in words], "tokens": counts}
    table |= {"last_token": words[:, -1], "prompt_sha256": keys, **columns}
    pd.DataFrame(table).to_csv(folder / "rows.csv", index=False)
    meta = {
        "format_version": 2,
        "kind": "collection",
        "site": "resid_pre",
        "layers": list(range(len(signal))),
        "segment": "instruction",
        "rows": n,
        "tokens": len(rows),
        "data": {"name": "planted", "sha256": ""},
        "origin": ORIGIN,
    }
    (folder / "collection.json").write_text(json.dumps(meta))
    return Collection.open(folder)
