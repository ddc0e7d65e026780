"""Attention statistics against a plain SDPA forward, transformers eager and TransformerLens.

Times: the sides alternate within each repeat, and the median of the ratios to the plain forward of
the same repeat counts, because absolute times on shared machines do not. Memory: each side runs
alone in a process of its own; its peak is what the resident set grew by in one forward pass.
What would not fit or would take too long is skipped, with the reason, never estimated.

    python benchmarks/attention_statistics.py --out runs/attention.json --doc docs/benchmarks.md
"""

import argparse
import copy
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from shared import HEADS, LAYERS, VOCABULARY, WIDTH, random_llama, rewrite, write
from torch import Tensor

import interp
from interp.attention.kernels import Demand
from interp.attention.statistics import AttentionCall, Tap, observe

CONTEXT = 32768
GIB = 2**30
LIMIT = 24 * GIB
SIDES = {
    "plain": "plain forward, SDPA",
    "first_key": "first-key mass, value and residual norms",
    "every_key": "mass on every key",
    "three": "every key + row entropy + participation ratio",
    "everything": "the same + entropy of every column",
    "eager": "transformers eager, `output_attentions`",
    "transformer_lens": "TransformerLens, hook that reduces `hook_pattern`",
}
# Design aims: largest ratio to the plain forward's time, by side and length.
AIMS = {
    "first_key": {2048: 1.10, 8192: 1.10},
    "every_key": {512: 1.5, 2048: 1.5, 8192: 1.9},
    "three": {2048: 2.5, 8192: 3.3},
}
MEMORY_AIM = 1.3
LONG_AIM = 4 * GIB
Side = Callable[[Tensor], list[Tensor]]


def side(name: str, checkpoint: interp.Checkpoint) -> Side:
    """One way to get the statistics: token ids in, a few vectors a layer out."""
    if name == "eager":
        return _eager(checkpoint)
    if name == "transformer_lens":
        return _transformer_lens(checkpoint)
    decoder = checkpoint.model.model

    def plain(ids: Tensor) -> list[Tensor]:
        assert decoder.config._attn_implementation == "sdpa"
        return [decoder(ids, use_cache=False).last_hidden_state]

    demands = {
        "first_key": Demand(chosen=True),
        "every_key": Demand(column=True),
        "three": Demand(column=True, entropy=True, square=True),
        "everything": Demand(column=True, column_entropy=True, entropy=True, square=True),
    }
    return plain if name == "plain" else _observed(checkpoint, demands[name])


def _observed(checkpoint: interp.Checkpoint, demand: Demand) -> Side:
    decoder = checkpoint.model.model

    def run(ids: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []

        def receive(call: AttentionCall) -> None:
            found = call.statistics
            assert found is not None
            if demand.chosen:
                kept.append(call.value.norm(dim=-1))
            for name in ("chosen", "column", "column_entropy", "entropy", "square"):
                if getattr(found, name) is not None:
                    kept.append(getattr(found, name))

        def norms(_: torch.nn.Module, __: Any, output: Tensor) -> None:
            kept.append(output.norm(dim=-1))

        real = torch.ones(ids.shape, dtype=torch.bool)
        keys = torch.zeros(len(ids), 1, dtype=torch.long)
        taps = {layer: Tap(receive, demand, real, keys) for layer in range(LAYERS)}
        handles = []
        if demand.chosen:
            handles = [layer.register_forward_hook(norms) for layer in checkpoint.layers]
        with observe(checkpoint.model, checkpoint.anatomy, taps):
            decoder(ids, use_cache=False)
        for handle in handles:
            handle.remove()
        return kept

    return run


def _eager(checkpoint: interp.Checkpoint) -> Side:
    model = transformers.AutoModelForCausalLM.from_config(
        copy.deepcopy(checkpoint.model.config), attn_implementation="eager"
    ).eval()
    model.load_state_dict(checkpoint.model.state_dict())

    def run(ids: Tensor) -> list[Tensor]:
        found = model.model(ids, use_cache=False, output_attentions=True).attentions
        return [weights.sum(2) for weights in found]

    return run


def _transformer_lens(checkpoint: interp.Checkpoint) -> Side:
    bridge = checkpoint.bridge()

    def run(ids: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []

        def reduce(pattern: Tensor, hook: Any) -> None:
            kept.append(pattern.sum(2))

        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(LAYERS)]
        with bridge.hooks(fwd_hooks=[(name, reduce) for name in names]):
            bridge(ids, return_type="logits", use_cache=False, logits_to_keep=1)
        return kept

    return run


def tokens(length: int) -> Tensor:
    """The same random ids for every side."""
    return torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))


def obstacle(name: str, length: int) -> str | None:
    """Why a side cannot run at a length here; None if it can.

    Eager returns the weights of all layers and needs about three more such matrices while it works;
    TransformerLens holds the scores, the pattern and what lies between them for one layer.
    """
    matrix = HEADS * length**2 * 4
    needed = {"eager": (LAYERS + 3) * matrix, "transformer_lens": 6 * matrix}.get(name, 0)
    free = psutil.virtual_memory().available
    if needed > min(LIMIT, 0.85 * free):
        return (
            f"would hold about {needed / GIB:.0f} GiB of attention matrices "
            f"(limit {LIMIT // GIB} GiB, free here {free / GIB:.0f} GiB)"
        )
    return None


def memory(name: str, length: int) -> dict[str, Any]:
    """Peak growth of the resident set in one forward pass, in this process. Seconds as well."""
    checkpoint = interp.load(random_llama(CONTEXT))
    run = side(name, checkpoint)
    with torch.inference_mode():
        run(tokens(64))
        gc.collect()
        forget_peak()
        before = psutil.Process().memory_info().rss
        begun = time.perf_counter()
        run(tokens(length))
        seconds = time.perf_counter() - begun
    return {"peak_bytes": max(0, highest() - before), "seconds": seconds}


def forget_peak() -> None:
    """Let the highest resident set so far be forgotten, where the system can (Linux)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def highest() -> int:
    """Highest resident set in bytes; on Linux since `forget_peak`, elsewhere since the start."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    # macOS counts bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_subprocess(name: str, length: int, threads: int) -> dict[str, Any]:
    """Measure the memory of one side in a process of its own.

    glibc is told to hand freed megabytes back at once: otherwise the holes in its heap, other ones
    in each run, count as memory of whichever side runs.
    """
    command = [sys.executable, __file__, "--memory-of", name, "--lengths", str(length)]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "HF_HUB_OFFLINE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**20),
    }
    command += ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"exit code {done.returncode}: {last}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(
    checkpoint: interp.Checkpoint, length: int, repeats: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Time and memory of every side at one length."""
    blocked = {name: obstacle(name, length) for name in SIDES}
    calls = {name: side(name, checkpoint) for name in SIDES if blocked[name] is None}
    ids = tokens(length)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            call(tokens(min(length, 256)))
        for repeat in range(repeats):
            for name, call in calls.items():
                begun = time.perf_counter()
                call(ids)
                seconds[name].append(time.perf_counter() - begun)
                print(f"T={length} {repeat + 1}/{repeats} {name}: {seconds[name][-1]:.2f} s")
    del calls
    result: dict[str, dict[str, Any]] = {}
    for name in SIDES:
        if blocked[name] is not None:
            print(f"T={length} {name}: skipped, {blocked[name]}")
            result[name] = {"skipped": blocked[name]}
            continue
        pairs = zip(seconds[name], seconds["plain"], strict=True)
        measured = in_subprocess(name, length, threads)
        result[name] = {
            "time_ratio": statistics.median(ours / plain for ours, plain in pairs),
            "seconds": seconds[name],
            **{key: value for key, value in measured.items() if key != "seconds"},
        }
        if "peak_bytes" in measured and "peak_bytes" in result["plain"]:
            ratio = measured["peak_bytes"] / max(1, result["plain"]["peak_bytes"])
            result[name]["memory_ratio"] = ratio
            print(f"T={length} {name}: peak {measured['peak_bytes'] / GIB:.2f} GiB")
    return result


def difference(checkpoint: interp.Checkpoint, length: int) -> float:
    """Largest difference of a mean column mass (a share, 0 to 1) from the eager one."""
    with torch.inference_mode():
        ours = side("every_key", checkpoint)(tokens(length))
        theirs = side("eager", checkpoint)(tokens(length))
    return max(float((a - b).abs().max()) / length for a, b in zip(ours, theirs, strict=True))


def at_length(length: int, threads: int) -> dict[str, Any]:
    """Mass on every key of one long sequence, and why the others cannot."""
    print(f"T={length} every_key alone")
    result = in_subprocess("every_key", length, threads)
    if "peak_bytes" in result:
        result["under_4_gib"] = result["peak_bytes"] < LONG_AIM
    others = {name: obstacle(name, length) for name in ("eager", "transformer_lens")}
    return {"length": length, "every_key": result, "others": others}


def table(result: dict[str, Any]) -> str:
    """The results as Markdown, beside the aims."""
    model = result["model"]
    lines = [
        f"Random Llama, {model['parameters'] / 1e6:.0f} million parameters, {LAYERS} layers, "
        f"{HEADS} heads of {WIDTH // HEADS}, float32, batch 1; {result['threads']} threads of "
        f"{result['cpus']} CPUs; torch {result['versions']['torch']}, transformers "
        f"{result['versions']['transformers']}, TransformerLens "
        f"{result['versions']['transformer_lens']}; median of {result['repeats']} alternating "
        "repeats. Time and memory are multiples of the plain forward; memory is the growth of the "
        "resident set in one forward pass.",
        "",
        "| work | T | time | aim | memory | aim |",
        "|---|---|---|---|---|---|",
    ]
    for length, sides in result["lengths"].items():
        for name, label in SIDES.items():
            lines.append(_line(name, label, int(length), sides[name]))
    lines += [
        "",
        f"Largest difference of a mean column mass from eager: {result['difference']:.1e}.",
    ]
    long = result["long"]
    if long is not None:
        ours = long["every_key"]
        peak = ours["peak_bytes"] / GIB if "peak_bytes" in ours else None
        text = f"{peak:.2f} GiB, {ours['seconds']:.0f} s" if peak is not None else ours["failed"]
        lines += ["", f"Mass on every key of one sequence of {long['length']:,} tokens: {text}"]
        lines[-1] += f" (aim: less than {LONG_AIM // GIB} GiB)."
        lines += [f"{SIDES[n]}: {why}." for n, why in long["others"].items() if why is not None]
    return "\n".join(lines)


def _line(name: str, label: str, length: int, found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"| {label} | {length} | skipped: {found['skipped']} | | | |"
    aim = AIMS.get(name, {}).get(length)
    ours = name in {"first_key", "every_key", "three", "everything"}
    if name == "plain":
        amount = f"{statistics.median(found['seconds']):.2f} s"
    else:
        amount = f"{found['time_ratio']:.2f} ×"
    held = "failed: " + found["failed"] if "failed" in found else ""
    if "peak_bytes" in found:
        held = f"{found['peak_bytes'] / GIB:.2f} GiB"
        if name != "plain":
            held = f"{found['memory_ratio']:.2f} × ({held})"
    limit = f"≤ {aim:.2f} ×" if aim is not None else ""
    most = f"≤ {MEMORY_AIM} ×" if ours else ""
    return f"| {label} | {length} | {amount} | {limit} | {held} | {most} |"


def main() -> None:
    """Measure, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--long", type=int, default=CONTEXT, help="0 leaves it out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--doc", type=Path, help="Markdown file whose table is rewritten")
    parser.add_argument("--memory-of", choices=SIDES, help="measure one side, print it, stop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(memory(arguments.memory_of, arguments.lengths[0])))
        return
    if arguments.out is None:
        parser.error("--out says where the JSON goes")
    checkpoint = interp.load(random_llama(CONTEXT))
    result: dict[str, Any] = {
        "kind": "attention_statistics",
        "model": {"architecture": "llama", "parameters": checkpoint.anatomy.parameters},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "transformer_lens": version("transformer-lens"),
            "python": sys.version.split()[0],
        },
        "threads": arguments.threads,
        "cpus": os.cpu_count(),
        "repeats": arguments.repeats,
        "difference": difference(checkpoint, min(arguments.lengths)),
        "lengths": {
            length: compare(checkpoint, length, arguments.repeats, arguments.threads)
            for length in arguments.lengths
        },
        "long": at_length(arguments.long, arguments.threads) if arguments.long else None,
    }
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(table(result))
    if arguments.doc:
        rewrite(arguments.doc, "Attention statistics", table(result))


if __name__ == "__main__":
    main()
