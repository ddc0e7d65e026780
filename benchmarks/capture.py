"""Residual capture of mixed-length prompts against a plain forward pass and TransformerLens.

The plain side runs the decoder on batches without a single token of padding, as many tokens as the
capture has; ours pads, hooks, reduces or writes to disk. Sides alternate within each repeat and the
median of the ratios counts, because absolute times on shared machines do not.

    python benchmarks/capture.py --out runs/capture.json
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import interp
from interp.capture import capture
from interp.plan import RowPlan
from interp.prompts import Row, id_rows
from interp.recorders import ResidualNorms
from interp.store import Activations

LAYERS, WIDTH, HEADS, VOCABULARY = 8, 512, 8, 8192


def model() -> transformers.PreTrainedModel:
    """A random Llama of about 30 million parameters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        architectures=["LlamaForCausalLM"],
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def sides(
    checkpoint: interp.Checkpoint, rows: list[Row], batch_tokens: int, folder: Path
) -> dict[str, Callable[[], object]]:
    """Each side as a call."""
    tokens = RowPlan.make(rows, batch_tokens).tokens
    length = round(tokens / len(rows))
    packed = torch.randint(0, VOCABULARY, (max(1, batch_tokens // length), length))
    batches = max(1, round(tokens / packed.numel()))
    bridge = checkpoint.bridge()
    layers = range(0, LAYERS, 2)
    names = [f"blocks.{layer}.hook_resid_post" for layer in layers]

    def plain() -> None:
        with torch.inference_mode():
            for _ in range(batches):
                checkpoint.decoder(input_ids=packed, use_cache=False)

    def norms() -> None:
        capture(checkpoint, rows, [ResidualNorms()], batch_tokens=batch_tokens)

    def stored() -> None:
        recorders = [
            Activations(interp.Site("resid_post", layer), folder / str(layer), "last")
            for layer in layers
        ]
        capture(checkpoint, rows, recorders, batch_tokens=batch_tokens)

    def lens() -> None:
        with torch.inference_mode():
            for row in rows:
                bridge.run_with_cache(torch.tensor([row.ids]), names_filter=names)

    return {"plain": plain, "norms": norms, "stored": stored, "transformer_lens": lens}


def main() -> None:
    """Time the sides and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    checkpoint = interp.load(model())
    draw = random.Random(0)
    ids = [
        [draw.randrange(VOCABULARY) for _ in range(draw.randint(32, 512))]
        for _ in range(arguments.rows)
    ]
    rows = list(id_rows(checkpoint, {"mixed": ids}).rows)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        calls = sides(checkpoint, rows, arguments.batch_tokens, Path(folder))
        for repeat in range(arguments.repeats + 1):
            for name, call in calls.items():
                begun = time.perf_counter()
                call()
                if repeat:  # the first round warms up
                    seconds.setdefault(name, []).append(time.perf_counter() - begun)
    ratios = {
        name: statistics.median(
            plain / side for plain, side in zip(seconds["plain"], times, strict=True)
        )
        for name, times in seconds.items()
        if name != "plain"
    }
    result = {
        "tokens": sum(map(len, rows)),
        "rows": len(rows),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "throughput_relative_to_plain": ratios,
        "ours_over_transformer_lens": ratios["stored"] / ratios["transformer_lens"],
        "seconds": seconds,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, ratio in ratios.items():
        print(f"{name:18} {ratio:.3f} × the tokens/s of a plain, perfectly packed forward")
    print(f"stored / TransformerLens: {result['ours_over_transformer_lens']:.2f} ×")


if __name__ == "__main__":
    main()
