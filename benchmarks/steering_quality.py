"""Every way to steer, trained alike on the organisms and measured on their held-out pairs.

Each method gets the same prompts and tries the same number of settings on validation prompts. A
seed names an independently trained organism, about a minute each the first time. On
`jailbreak-erase` the jailbreak removes what was harmful from the states. Where the calibration of
was-plus refuses, it is trained at the false-positive rate that the refusal names, so that the
evaluation can show what it costs. A cell that is done has a file in --work, so a stopped run goes
on.

    python benchmarks/steering_quality.py --work runs/quality
    python benchmarks/steering_quality.py --work runs/quality --conditions plain \
        --organisms jailbreak-keep chat backdoor-unalign --seeds 3 4 5 6 7
    python benchmarks/steering_quality.py --work runs/quality --conditions plain \
        --organisms chat-gated --seeds 4 5 6
    python benchmarks/steering_quality.py --work runs/quality --seeds 0 1 2 3 4 5 6 7 --done \
        --doc docs/benchmarks.md
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from shared import rewrite, write
from steering_cells import CONDITIONS, METHODS, Cell, cells, test_set, training_set
from steering_tables import Results, section

import interp
from analyses.refusal.material import RefusalPrompts
from analyses.refusal.measuring.speak import Responder
from analyses.steering.material import TestSet
from analyses.steering.run import DOSES, steering
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import PromptSet
from steering.policy.policy import Policy
from steering.runtime.runtime import as_edit
from steering.training.calibration import NoSeparationError
from steering.training.examples import Captured, captured
from steering.training.fit import train
from steering.training.options import Options

ORGANISMS = ("jailbreak-keep", "chat", "backdoor-unalign", "chat-gated", "jailbreak-erase")


@dataclass
class CellRun:
    """One cell: what is captured once for all methods, when one of them is to be measured."""

    cell: Cell

    @cached_property
    def read(self) -> Captured:
        """The prompts to train on, and their states."""
        checkpoint = interp.load(f"organism:{self.cell.model}")
        return captured(checkpoint, training_set(checkpoint, self.cell))

    @cached_property
    def tests(self) -> TestSet:
        """The prompts to measure on."""
        return test_set(self.read.checkpoint, self.cell)

    def measured(self, method: str) -> dict[str, Any]:
        """Train a method and measure it: rows of the report, answers, what calibration refused."""
        begun, refused = time.perf_counter(), None
        seed = self.cell.seed
        try:
            policy = self._trained(method, Options(seed=seed))
        except NoSeparationError as error:
            refused = str(error)
            allowed = Options(seed=seed, fpr=error.rate or Options.fpr, least_tpr=0.0)
            policy = self._trained(method, allowed)
        checkpoint = self.read.checkpoint
        report = steering(checkpoint, [policy], self.tests, seed=seed, doses=()).report
        base, row = report["policies"]
        record = policy.meta["training"]
        return {
            "base": base["rates"],
            "row": row,
            "answers": answers(checkpoint, policy, self.tests),
            "calibration": record["calibration"],
            "calibration_refused": refused,
            "chosen": next(trial for trial in record["trials"] if trial["chosen"]),
            "strongest": max(trial["strength"] for trial in record["trials"]),
            "seconds": round(time.perf_counter() - begun),
        }

    def _trained(self, method: str, options: Options) -> Policy:
        read = self.read
        return train(read.checkpoint, read.given, method, options, read=read)


def answers(checkpoint: Checkpoint, policy: Policy, tests: TestSet) -> dict[str, list[str]]:
    """Refused (1) or not (0), by set: one string a dose, one character a prompt."""
    none = PromptSet(())
    material = RefusalPrompts(none, none, none, refusals=tests.refusals)
    responder = Responder(checkpoint, material, max_new_tokens=32)
    found: dict[str, list[str]] = {}
    for name, prompts in tests.sets.items():
        for dose in DOSES:
            said = responder.respond(name, prompts, as_edit(checkpoint, policy, dose))
            found.setdefault(name, []).append("".join(map(str, said.refused.astype(int).tolist())))
    return found


def collected(
    asked: Sequence[Cell], methods: Sequence[str], work: Path, *, measure: bool
) -> Results:
    """Every method in every cell, from its file where it is done; else measured, or left out."""
    results: Results = {}
    for number, cell in enumerate(asked):
        run = CellRun(cell)
        for method in methods:
            path = work / f"{cell}-{method}.json"
            if not path.exists() and measure:
                print(f"{number + 1} of {len(asked)}: {cell}, {method}", flush=True)
                write(path, json.dumps(run.measured(method), indent=1))
            if path.exists():
                results.setdefault(cell, {})[method] = json.loads(path.read_text())
    return results


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with a file for each cell")
    parser.add_argument("--doc", type=Path, help="file whose table is replaced")
    parser.add_argument("--organisms", nargs="+", default=list(ORGANISMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--done", action="store_true", help="measure nothing, table what is done")
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = cells(given.organisms, given.seeds, given.conditions)
    results = collected(asked, given.methods, given.work, measure=not given.done)
    text = section(results)
    print(text)
    if given.doc is not None:
        rewrite(given.doc, "Steering quality", text)


if __name__ == "__main__":
    main()
