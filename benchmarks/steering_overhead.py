"""Tokens per second of `generate` under a policy, over those of plain `generate`.

A random Llama of about 30 million parameters, on one thread. Every run of a side has a plain run at
its side, before it and behind it by turns, and the median of the ratios counts. Seconds are those
of the process, because others may use the machine; an idle one is needed all the same, for what
others do to caches moves the ratios by several per cent. Attaching and detaching are part of every
call. repeng and steering-vectors are timed too where they are installed and run (`pip install
--no-deps`); they add the vectors of "actadd, every layer" to every token.

    python benchmarks/steering_overhead.py --out runs/steering.json --doc docs/benchmarks.md
    python benchmarks/steering_overhead.py --out runs/long.json --cells 32x1024 --repeats 3 \
        --policies "was-plus, closed" "was-plus, half open" "was-plus, open"
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from shared import LAYERS, VOCABULARY, WIDTH, random_llama, rewrite, write

import interp
from steering.gates import ControllerGate, LogisticGate
from steering.methods import act_add, alphasteer, was, was_plus
from steering.policy import Policy, Span
from steering.runtime import apply

Side = Callable[[], contextlib.AbstractContextManager[object]]
POST = [interp.Site("resid_post", layer) for layer in range(LAYERS)]
READ = POST[LAYERS // 2 : LAYERS // 2 + 1]


def policies() -> dict[str, Policy]:
    """What is timed: gates that open all, half or none of the rows."""
    generator = torch.Generator().manual_seed(0)

    def vectors(count: int) -> torch.Tensor:
        return torch.randn(count, WIDTH, generator=generator)

    after = POST[LAYERS // 2 :]
    gate = LogisticGate(READ, vectors(1))
    controller = ControllerGate(POST[-3:], WIDTH, LAYERS).eval()
    plus = was_plus(after, vectors(len(after)), gate, 0.1)
    return {
        "actadd, one layer": act_add(READ, vectors(1)),
        "actadd, every layer": act_add(POST, vectors(LAYERS)),
        "was-plus, closed": replace(plus, gate=LogisticGate(READ, vectors(1), -1e6)),
        "was-plus, half open": plus,
        "was-plus, open": replace(plus, gate=LogisticGate(READ, vectors(1), 1e6)),
        "was": was(vectors(1)[0], LAYERS, controller),
        "alphasteer": alphasteer(after, vectors(len(after)), vectors(len(after)) * 0.01),
    }


@contextlib.contextmanager
def steering_vectors(model: Any, vectors: torch.Tensor) -> Iterator[None]:
    """Vectors added at every block by steering-vectors."""
    package = importlib.import_module("steering_vectors")
    with package.SteeringVector(dict(enumerate(vectors))).apply(model):
        yield


@contextlib.contextmanager
def repeng(model: Any, vectors: torch.Tensor) -> Iterator[None]:
    """Vectors added at every block by repeng."""
    package = importlib.import_module("repeng")
    wrapped = package.ControlModel(model, range(LAYERS))
    try:
        wrapped.set_raw_control(dict(enumerate(vectors)))
        yield
    finally:
        wrapped.unwrap()


PEERS: dict[str, Callable[[Any, torch.Tensor], contextlib.AbstractContextManager[None]]] = {
    "repeng": repeng,
    "steering-vectors": steering_vectors,
}


def peers(model: Any, vectors: torch.Tensor) -> tuple[dict[str, Side], dict[str, str]]:
    """Those that run here, by name and version, and why the others do not."""
    ids, found, missing = torch.arange(3, 9)[None], {}, {}
    with apply(interp.load(model), act_add(POST, vectors, span=Span.everything())), torch.no_grad():
        wanted = model(ids).logits
    for name, opened in PEERS.items():
        side = functools.partial(opened, model, vectors)
        try:
            label = f"{name} {importlib.metadata.version(name)}"
            with torch.no_grad(), side():
                torch.testing.assert_close(model(ids).logits, wanted)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = "not installed"
        except Exception as error:  # whatever keeps a peer from running is told
            missing[name] = f"does not run here: {type(error).__name__}: {error}".splitlines()[
                0
            ].rstrip(".")
        else:
            found[label] = side
    return found, missing


def ratios(
    checkpoint: interp.Checkpoint,
    sides: dict[str, Side],
    batch: int,
    prompt: int,
    new: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Plain time over steered time of each policy, of runs next to each other, by repeat."""
    ids = torch.randint(3, VOCABULARY, (batch, prompt), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": new,
        "min_new_tokens": new,
        "do_sample": False,
        "pad_token_id": 0,
    }

    def timed(opened: Side) -> float:
        begun = time.process_time()
        with opened():
            checkpoint.model.generate(ids, **options)
        return time.process_time() - begun

    found: dict[str, list[float]] = {name: [] for name in sides}
    timed(contextlib.nullcontext)  # warms up
    for repeat in range(repeats):
        for place, (name, side) in enumerate(sides.items()):
            if (repeat + place) % 2:
                steered, plain = timed(side), timed(contextlib.nullcontext)
            else:
                plain, steered = timed(contextlib.nullcontext), timed(side)
            found[name].append(plain / steered)
    return found


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    cells = result["cells"]
    heads = [f"{cell['batch']} × {cell['prompt']}" for cell in cells]
    lines = [
        f"A random Llama of {result['parameters'] / 1e6:.0f} million parameters on CPU, float32, "
        f"{result['new_tokens']} new tokens, one thread; torch "
        f"{result['torch']}, transformers {result['transformers']}; median of "
        f"{result['repeats']} pairs of runs next to each other, attaching and detaching included. "
        "Tokens per second over plain `generate`, by rows × tokens of the prompts. Aim for WAS+: "
        "≥ 0.97." + "".join(f" {name}: {why}." for name, why in result["missing"].items()),
        "",
        "| policy | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for name in result["policies"]:
        values = " | ".join(f"{statistics.median(cell['ratios'][name]):.3f}" for cell in cells)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """Time the sides and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--cells",
        nargs="+",
        default=["1x64", "8x64", "32x64", "1x1024", "8x1024", "32x1024"],
        help="rows x tokens of the prompts",
    )
    parser.add_argument("--policies", nargs="+", help="by name; all, and peers, if not given")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--doc", type=Path, help="rewrite this document's table")
    parser.add_argument("--title", default="Steering overhead", help="of the table there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = random_llama(2048)
    checkpoint, named = interp.load(model), policies()
    others, missing = peers(model, named["actadd, every layer"].directions)
    sides: dict[str, Side] = {
        **{name: functools.partial(apply, checkpoint, policy) for name, policy in named.items()},
        **others,
    }
    if arguments.policies:
        sides, missing = {name: sides[name] for name in arguments.policies}, {}
    cells = [
        {
            "batch": batch,
            "prompt": prompt,
            "ratios": ratios(
                checkpoint, sides, batch, prompt, arguments.new_tokens, arguments.repeats
            ),
        }
        for batch, prompt in (map(int, cell.split("x")) for cell in arguments.cells)
    ]
    result = {
        "parameters": model.num_parameters(),
        "new_tokens": arguments.new_tokens,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "policies": list(sides),
        "missing": missing,
        "cells": cells,
    }
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(table(result))
    if arguments.doc:
        rewrite(arguments.doc, arguments.title, table(result))


if __name__ == "__main__":
    main()
