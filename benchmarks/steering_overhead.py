"""Tokens per second of `generate` under a policy, over those of plain `generate`.

A random Llama of about 30 million parameters, on one thread. All sides, and a plain run more as a
control, generate at once and take turns after every token, each on modules of its own that share
the parameters, so that what slows the machine slows all of them. They keep to one core, where that
can be asked for, since cores differ, and their order turns from repeat to repeat. Seconds are those
of a side's own thread; attaching and detaching are part of them. repeng and steering-vectors are
timed too where they are installed and run (`pip install --no-deps`); they add the vectors of
"actadd, every layer" to every token.

    python benchmarks/steering_overhead.py --out runs/steering.json --doc docs/benchmarks.md \
        --cells 1x64 8x64 32x64 1x1024
    python benchmarks/steering_overhead.py --out runs/large.json --doc docs/benchmarks.md \
        --cells 32x64 8x1024 --repeats 21 \
        --policies "was-plus, closed" "was-plus, half open" "was-plus, open" \
        --title "Steering overhead of large batches"
    python benchmarks/steering_overhead.py --out runs/long.json --doc docs/benchmarks.md \
        --cells 32x1024 --repeats 5 \
        --policies "was-plus, closed" "was-plus, half open" "was-plus, open" \
        --title "Steering overhead of a large batch of long prompts"
"""

import argparse
import contextlib
import copy
import functools
import importlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from shared import LAYERS, VOCABULARY, WIDTH, random_llama, rewrite, write
from turns import Turn, taken

import interp
from interp.statistics.intervals import bootstrap
from steering import act_add, alphasteer, was, was_plus
from steering.policy.policy import Policy
from steering.runtime.gates import ControllerGate, LogisticGate
from steering.runtime.runtime import apply
from steering.runtime.span import Span

Side = Callable[[], contextlib.AbstractContextManager[object]]
PLAIN, CONTROL = "plain", "plain again"
POST = [interp.Site("resid_post", layer) for layer in range(LAYERS)]
HALF = LAYERS // 2
READ = POST[HALF - 2 : HALF + 1]
"""Three layers, as many as the gate of was-plus reads at the most."""


def policies() -> dict[str, Policy]:
    """What is timed: gates that open all, half or none of the rows."""
    generator = torch.Generator().manual_seed(0)

    def vectors(count: int) -> torch.Tensor:
        return torch.randn(count, WIDTH, generator=generator)

    after = POST[HALF:]
    gate = LogisticGate(READ, vectors(len(READ)))
    controller = ControllerGate(POST[-3:], WIDTH, LAYERS).eval()
    plus = was_plus(after, vectors(len(after)), gate, 0.1)
    return {
        "actadd, one layer": act_add(READ[-1:], vectors(1)),
        "actadd, every layer": act_add(POST, vectors(LAYERS)),
        "was-plus, closed": replace(plus, gate=LogisticGate(READ, vectors(len(READ)), -1e6)),
        "was-plus, half open": plus,
        "was-plus, open": replace(plus, gate=LogisticGate(READ, vectors(len(READ)), 1e6)),
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


def peers(model: Any, vectors: torch.Tensor) -> tuple[dict[str, str], dict[str, str]]:
    """Labels with versions of those that run here, and why the others do not, by name."""
    ids, found, missing = torch.arange(3, 9)[None], {}, {}
    with apply(interp.load(model), act_add(POST, vectors, span=Span.everything())), torch.no_grad():
        wanted = model(ids).logits
    for name, opened in PEERS.items():
        try:
            label = f"{name} {importlib.metadata.version(name)}"
            with torch.no_grad(), opened(model, vectors):
                torch.testing.assert_close(model(ids).logits, wanted)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = "not installed"
        except Exception as error:  # whatever keeps a peer from running is told
            missing[name] = f"does not run here: {type(error).__name__}: {error}".splitlines()[
                0
            ].rstrip(".")
        else:
            found[name] = label
    return found, missing


def sharing(model: Any) -> Any:
    """Modules of their own on the same parameters."""
    return copy.deepcopy(model, {id(one): one for one in model.parameters()})


def sides_of(
    model: Any, chosen: Sequence[str] | None
) -> tuple[dict[str, tuple[Any, Side]], dict[str, str]]:
    """A model and how to steer it, by name; and why a peer is not among them.

    Args:
        model: whose parameters all share.
        chosen: names to keep beside the plain ones; all, and peers, if None.
    """
    named = policies()
    vectors = named["actadd, every layer"].directions
    labels, missing = peers(model, vectors)
    found: dict[str, tuple[Any, Side]] = {
        name: (sharing(model), contextlib.nullcontext) for name in (PLAIN, CONTROL)
    }
    for name, policy in named.items():
        own = sharing(model)
        found[name] = own, functools.partial(apply, interp.load(own), policy)
    for name, label in labels.items():
        own = sharing(model)
        found[label] = own, functools.partial(PEERS[name], own, vectors)
    if chosen is None:
        return found, missing
    return {name: found[name] for name in (PLAIN, CONTROL, *chosen)}, {}


def ratios(
    sides: dict[str, tuple[Any, Side]],
    batch: int,
    prompt: int,
    new: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Plain time over time of each side, by repeat; a repeat more goes first, to warm up."""
    ids = torch.randint(3, VOCABULARY, (batch, prompt), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": new,
        "min_new_tokens": new,
        "do_sample": False,
        "pad_token_id": 0,
    }

    def run(model: Any, opened: Side, turn: Turn) -> None:
        with opened():
            model.generate(ids, stopping_criteria=[turn], **options)

    runs = {name: functools.partial(run, *side) for name, side in sides.items()}
    found: dict[str, list[float]] = {name: [] for name in sides if name != PLAIN}
    for repeat in range(repeats + 1):
        first = repeat * len(runs) // (repeats + 1)
        order = [*list(runs)[first:], *list(runs)[:first]]
        seconds = taken({name: runs[name] for name in order})
        for name in found:
            if repeat:
                found[name].append(seconds[PLAIN] / seconds[name])
    return found


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    cells = result["cells"]
    heads = [f"{cell['batch']} × {cell['prompt']}" for cell in cells]
    lines = [
        f"A random Llama of {result['parameters'] / 1e6:.0f} million parameters on CPU, float32, "
        f"{result['new_tokens']} new tokens, one core; torch {result['torch']}, transformers "
        f"{result['transformers']}. All sides generate in turns, token by token; median of "
        f"{result['repeats']} repeats with its 95 % interval by bootstrap, attaching and detaching "
        f"included. Tokens per second over plain `generate`, by rows × tokens of the prompts; "
        f"“{CONTROL}” shows what the measurement cannot tell. Aim for WAS+: ≥ 0.97."
        + "".join(f" {name}: {why}." for name, why in result["missing"].items()),
        "",
        "| policy | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for name in result["policies"]:
        values = " | ".join(_median(np.array(cell["ratios"][name])) for cell in cells)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def _median(values: np.ndarray) -> str:
    low, high = bootstrap(values, 0, functools.partial(np.median, axis=0))
    return f"{np.median(values):.3f} ({low:.3f} to {high:.3f})"


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
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--doc", type=Path, help="rewrite this document's table")
    parser.add_argument("--title", default="Steering overhead", help="of the table there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    model: Any = random_llama(2048)
    sides, missing = sides_of(model, arguments.policies)
    cells = [
        {
            "batch": batch,
            "prompt": prompt,
            "ratios": ratios(sides, batch, prompt, arguments.new_tokens, arguments.repeats),
        }
        for batch, prompt in (map(int, cell.split("x")) for cell in arguments.cells)
    ]
    result = {
        "parameters": model.num_parameters(),
        "new_tokens": arguments.new_tokens,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "policies": [name for name in sides if name != PLAIN],
        "missing": missing,
        "cells": cells,
    }
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(table(result))
    if arguments.doc:
        rewrite(arguments.doc, arguments.title, table(result))


if __name__ == "__main__":
    main()
