"""Residual capture of mixed-length prompts against a plain forward pass and TransformerLens.

The plain side runs the decoder on batches without a single token of padding, as many tokens as the
capture has; ours pads, hooks, reduces or writes to disk. Sides alternate within each repeat and the
median of the ratios counts, because absolute times on shared machines do not.

    python benchmarks/capture.py --out runs/capture.json --doc docs/benchmarks.md
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from shared import LAYERS, VOCABULARY, random_llama, rewrite, write

import interp
from interp.capture.recorders import ResidualNorms
from interp.capture.run import capture
from interp.capture.store import Activations
from interp.data.row_plan import RowPlan
from interp.data.rows import Row, id_rows


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


LABELS = {
    "norms": "norms, maxima and embedding of every layer, reduced on the fly",
    "stored": "last token of every second layer, to disk",
    "transformer_lens": "TransformerLens `run_with_cache` of the same layers, prompt by prompt",
}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    ratios = result["throughput_relative_to_plain"]
    lines = [
        f"The same random Llama, {result['rows']} prompts of 32 to 512 tokens "
        f"({result['tokens']:,} in all), {result['threads']} thread(s); torch {result['torch']}, "
        f"transformers {result['transformers']}; median of {len(result['seconds']['plain'])} "
        "alternating repeats. Tokens per second, against a plain forward of as many tokens in "
        "batches without padding. Aims: ≥ 0.9, and twice TransformerLens.",
        "",
        "| work | tokens/s |",
        "|---|---|",
        *(f"| {label} | {ratios[name]:.2f} × |" for name, label in LABELS.items()),
        "",
        f"Storing against TransformerLens: {result['ours_over_transformer_lens']:.2f} ×.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Time the sides and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--doc", type=Path, help="rewrite this document's table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = interp.load(random_llama(1024))
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
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(table(result))
    if arguments.doc:
        rewrite(arguments.doc, "Residual capture", table(result))


if __name__ == "__main__":
    main()
