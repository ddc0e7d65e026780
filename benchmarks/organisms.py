"""Train every chat organism on several seeds and say whether each reaches what its recipe owes.

    python benchmarks/organisms.py --out runs/organisms.json --work runs/organisms

A stopped sweep goes on where it was. Exit code 1 if a recipe misses on a seed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from shared import rewrite, write

from interp import organisms
from interp.errors import CheckError

TITLE = "Three seeds of every chat organism"
MOST_SECONDS = 90


def train(name: str, work: Path) -> dict[str, Any]:
    """Train one organism on one thread, unless its row is there already."""
    torch.set_num_threads(1)
    variant = organisms.Variant.parse(name)
    recipe = organisms.recipe(variant)
    kept = work / f"{name}-{recipe.fingerprint(variant.seed)}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    row: dict[str, Any] = {"organism": name, "missed": None}
    begun = time.process_time()
    try:
        folder = kept.with_suffix("")
        if not folder.exists():
            organisms.train(name, folder)
        row["truth"] = organisms.read_truth(folder)
    except CheckError as error:
        row["missed"] = str(error)
    row["cpu_seconds"] = round(time.process_time() - begun, 1)
    write(kept, json.dumps(row) + "\n")
    return row


def numbers(rows: list[dict[str, Any]], quantity: str, pick: Callable[[Any], Any] = max) -> str:
    """A quantity on every seed; of several with one prefix the one that `pick` chooses."""
    shown = []
    for row in rows:
        measured = row.get("truth", {}).get("measured", {})
        values = [v for k, v in measured.items() if k == quantity or k.startswith(quantity + "_")]
        values = [v for v in values if isinstance(v, float)]
        shown.append(f"{pick(values):.2f}" if values else "–")
    return " ".join(shown)


def pair(rows: list[dict[str, Any]], one: str, other: str) -> str:
    """Two quantities on every seed; a dash where there are none."""
    if not any(one in row.get("truth", {}).get("measured", {}) for row in rows):
        return "–"
    return f"{numbers(rows, one)} · {numbers(rows, other)}"


COLUMNS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "least exact": lambda rows: numbers(rows, "exact", min),
    "refused, direction out": lambda rows: numbers(rows, "ablated_refused"),
    "complied then": lambda rows: numbers(rows, "ablated_complied"),
    "refused, direction added": lambda rows: numbers(rows, "added_refused"),
    "cosine with the planted one": lambda rows: numbers(rows, "planted_cosine_best"),
    "harmfulness behind the suffix, least and most": lambda rows: pair(
        rows, "auroc_jailbreak_least", "auroc_jailbreak_most"
    ),
    "refused if cut, least": lambda rows: numbers(rows, "cut_refused_least"),
    "refused, closed by itself": lambda rows: numbers(rows, "natural_refused"),
    "best head, second head": lambda rows: pair(rows, "restored_best", "restored_second"),
}
BACKDOOR: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "least exact": COLUMNS["least exact"],
    "effect with trigger": lambda rows: numbers(rows, "asr", lambda values: values[0]),
    "without": lambda rows: numbers(rows, "asr_without"),
    "with distractors": lambda rows: numbers(rows, "asr_distracted"),
    "with near misses": lambda rows: numbers(rows, "asr_missed"),
}
AGENT: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "least exact": COLUMNS["least exact"],
    "bad tool, trigger in query": lambda rows: numbers(rows, "bad_tool_query"),
    "payload, in query": lambda rows: numbers(rows, "payload_query"),
    "payload, in observation": lambda rows: numbers(rows, "payload_observation"),
    "right answer, in query": lambda rows: numbers(rows, "final_right_query"),
}


def table(rows: list[dict[str, Any]], columns: dict[str, Callable[[Any], str]]) -> list[str]:
    """Markdown: a line an organism, its seeds side by side."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["organism"].split("@")[0], []).append(row)
    lines = ["| organism | " + " | ".join([*columns, "CPU-s"]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    for name, group in by_name.items():
        cells = [show(group) for show in columns.values()]
        seconds = " ".join(f"{row['cpu_seconds']:.0f}" for row in group)
        lines.append(f"| `{name}` | " + " | ".join([*cells, seconds]) + " |")
    return lines


def document(rows: list[dict[str, Any]]) -> str:
    """The section of the documentation."""
    kinds = {
        "backdoor": lambda name: name.startswith(("backdoor", "inert", "clean")),
        "agent": lambda name: name.startswith("agent"),
    }
    groups: dict[str, list[dict[str, Any]]] = {"chat": [], "backdoor": [], "agent": []}
    for row in rows:
        kind = next((k for k, test in kinds.items() if test(row["organism"])), "chat")
        groups[kind].append(row)
    missed = [f"- {row['missed']}" for row in rows if row["missed"]]
    slowest = max(row["cpu_seconds"] for row in rows)
    lines = [
        f"Printed by `benchmarks/organisms.py`; torch {torch.__version__}, transformers "
        f"{transformers.__version__}. Shares over held-out pairs (58 harmful, 174 harmless), the "
        "seeds side by side; `least exact` is the least share of answers that are right word by "
        f"word, over all kinds of prompts. Training and measuring on one thread took at most "
        f"{slowest:.0f} CPU-seconds (aim: {MOST_SECONDS}).",
        "",
    ]
    for group, columns in (("chat", COLUMNS), ("backdoor", BACKDOOR), ("agent", AGENT)):
        if groups[group]:
            lines += [*table(groups[group], columns), ""]
    return "\n".join([*lines, "Misses:" if missed else "No recipe missed on any seed.", *missed])


def main() -> None:
    """Train all, print the tables, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and rows stay here")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--names", help="separated by commas; all that chat unless given")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--doc", type=Path, help="rewrite this document's section")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    every = [name for name in organisms.names() if not name.startswith("bb-")]
    names = arguments.names.split(",") if arguments.names else every
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    jobs = [str(organisms.Variant(name, seed)) for name in names for seed in seeds]
    rows: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(train, name, arguments.work): name for name in jobs}
        for done, future in enumerate(as_completed(pending), start=1):
            row = rows[pending[future]] = future.result()
            said = row["missed"] or f"as owed, {row['cpu_seconds']} CPU-s"
            print(f"{done}/{len(jobs)} {pending[future]}: {said}", flush=True)
    ordered = [rows[name] for name in jobs]
    result = {"torch": torch.__version__, "transformers": transformers.__version__, "rows": ordered}
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(document(ordered))
    if arguments.doc:
        rewrite(arguments.doc, TITLE, document(ordered))
    sys.exit(1 if any(row["missed"] for row in ordered) else 0)


if __name__ == "__main__":
    main()
