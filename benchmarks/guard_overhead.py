"""A guard beside a prefill, against the prefill alone.

Both sides run the whole model on the same batch, the key-value cache included; ours also gathers
the states at t_inst at every layer that the guard reads, and scores them. Sides alternate within
each repeat and take turns in going first, and the median of the ratios counts, because absolute
times on shared machines do not. A pair of plain prefills gives the noise. On CPU the clock is that
of this process, which other processes do not lengthen; on CUDA it is the wall's.

    python benchmarks/guard_overhead.py --out runs/guard.json --doc docs/benchmarks.md
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from shared import LAYERS, VOCABULARY, WIDTH, random_llama, rewrite, write

import interp
from interp.data.rows import Row
from probes.guards.guard import Guard
from probes.guards.latent_guard import middle_layers
from probes.guards.readout import Readout
from probes.guards.threshold import Threshold

AIM = 1.03
LENGTHS, BATCHES = (64, 256, 1024), (1, 8)


def random_guard(checkpoint: interp.Checkpoint, layers: Sequence[int]) -> Guard:
    """A guard with random weights: what it costs does not depend on what they are."""
    rng = np.random.default_rng(0)
    shape = (len(layers), WIDTH)
    weights, centres = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    readout = Readout(tuple(layers), weights, centres, 0.0, True)
    return Guard(checkpoint, "centred", readout, Threshold(0.0))


def rows_of(batch: int, length: int) -> list[Row]:
    """Rows of random ids whose instruction ends five tokens before the prompt does."""
    ids = torch.randint(0, VOCABULARY, (batch, length)).tolist()
    segments = {"instruction": (4, length - 5), "post_instruction": (length - 5, length)}
    return [Row(number, tuple(row), "", segments) for number, row in enumerate(ids)]


def sides(
    checkpoint: interp.Checkpoint, guards: dict[str, Guard], rows: list[Row]
) -> dict[str, Callable[[], object]]:
    """Each side as a call."""
    ids = torch.tensor([row.ids for row in rows], device=checkpoint.device)

    def prefill(guard: Guard | None) -> None:
        watched = nullcontext() if guard is None else guard.watching(rows)
        with torch.inference_mode(), watched as seen:
            checkpoint.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            if seen is not None:
                _ = seen.scores
        if ids.is_cuda:
            torch.cuda.synchronize()

    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: prefill(None),
        "plain again": lambda: prefill(None),
    }
    for name, guard in guards.items():
        calls[name] = lambda guard=guard: prefill(guard)  # type: ignore[misc]
    return calls


def measured(
    calls: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every side; every other round runs the sides backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        order = list(calls) if repeat % 2 else list(calls)[::-1]
        for name in order:
            begun = clock()
            calls[name]()
            if repeat:  # the first round warms up
                seconds[name].append(clock() - begun)
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Median of the ratios to the plain side, their quartiles, and the ratio of the fastest runs.

    The fastest run of each side is the one that a busy machine disturbed least.
    """
    found = {}
    for name, times in seconds.items():
        if name != "plain":
            each = [side / plain for side, plain in zip(times, seconds["plain"], strict=True)]
            quartiles = [float(q) for q in np.percentile(each, [50, 25, 75])]
            found[name] = [*quartiles, min(times) / min(seconds["plain"])]
    return found


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"The same random Llama ({LAYERS} layers), {result['dtype']} on {result['device']}, "
        f"{result['threads']} thread(s); torch {result['torch']}, transformers "
        f"{result['transformers']}; prefill with its cache; median of {result['repeats']} to "
        f"{4 * result['repeats']} alternating repeats, in brackets the "
        "quartiles and the ratio of the fastest runs. `all layers` is the "
        f"guard as published, `middle layers` ours; the aim is ≤ {AIM} ×. "
        "The last column is a plain prefill against another one: the noise.",
        "",
        "| batch | tokens | plain prefill | all layers | middle layers | plain again |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        cells = [
            "{:.3f} × ({:.3f} to {:.3f}; {:.3f})".format(*case["ratios"][name])
            for name in ("all layers", "middle layers", "plain again")
        ]
        plain = f"{1000 * case['plain_seconds']:.1f} ms"
        lines.append(f"| {case['batch']} | {case['length']} | {plain} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Time the sides and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5, help="of the longest prefills")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--doc", type=Path, help="rewrite this document's table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = random_llama(max(arguments.lengths))
    model.to(arguments.device, getattr(torch, arguments.dtype))
    checkpoint = interp.load(model)
    clock = time.perf_counter if model.device.type == "cuda" else time.process_time
    middle = middle_layers(LAYERS)
    guards = {
        "all layers": random_guard(checkpoint, range(LAYERS)),
        "middle layers": random_guard(checkpoint, middle.tolist()),
    }
    cases = []
    for batch in BATCHES:
        for length in arguments.lengths:
            calls = sides(checkpoint, guards, rows_of(batch, length))
            # The fixed cost shows in short prefills, which are noisier and cheap to repeat.
            tokens = batch * length
            repeats = arguments.repeats * (4 if tokens <= 512 else 2 if tokens <= 2048 else 1)
            seconds = measured(calls, repeats, clock)
            cases.append(
                {
                    "batch": batch,
                    "length": length,
                    "plain_seconds": statistics.median(seconds["plain"]),
                    "ratios": ratios(seconds),
                }
            )
            print(cases[-1], flush=True)
    held = all(
        case["ratios"][name][0] <= AIM for case in cases for name in ("all layers", "middle layers")
    )
    result = {
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU",
        "dtype": arguments.dtype,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "aim": AIM,
        "held": held,
        "cases": cases,
    }
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(table(result))
    if arguments.doc:
        rewrite(arguments.doc, "Guard overhead", table(result))


if __name__ == "__main__":
    main()
