"""Damaged and lying files, thousands of them: is each refused in one sentence, or without effect?

Every subject is a good file (or folder) and the public function that reads it. Each mutation
changes bytes of one of its files, or edits its JSON in one place; of our own artefacts a third of
the mutations are edits whose checksum was taken anew, so that only the checks behind it can find
them. What then happens is one of

- refused: a `MechguardError` of one line (exit 2 or 3);
- equal: it was read, and what was read is equal to the bit;
- other: it was read and differs. For our own artefacts that is a silent change, unless the
  checksum was taken anew, which makes it a good file of other content. Formats of others carry no
  checksum, so that a changed number in them cannot be noticed;
- traceback: any other exception, or a message that is no single line;
- hang: more than 10 seconds.

    python benchmarks/fuzz.py --count 3500 --out runs/fuzz.json --doc docs/reliability.md
"""

import argparse
import contextlib
import faulthandler
import io
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fuzz_mutations import damaged
from fuzz_subjects import Subject, plain, subjects
from shared import rewrite, write

from analyses.cli import main as command_line
from interp.errors import MechguardError

LIMIT = 10
OUTCOMES = ("refused", "equal", "other", "silent", "traceback", "hang")
_LIES, _COMMANDS, _LONGEST = 0.35, 0.1, 2000


@dataclass(frozen=True)
class Outcome:
    """What one mutation did.

    Attributes:
        subject: which file.
        mutation: how it was changed.
        result: one of `OUTCOMES`.
        said: the message, or the end of the traceback.
    """

    subject: str
    mutation: str
    result: str
    said: str


class _Hang(BaseException):
    """Time is over; no reader may take this for an error of the file."""


def run(chosen: list[Subject], count: int, seed: int) -> list[Outcome]:
    """Damage files and read them.

    Args:
        chosen: subjects, which share the mutations by their weights.
        count: of mutations in all.
        seed: of every choice.
    """
    total = sum(subject.weight for subject in chosen)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for subject in chosen:
            share = max(1, round(count * subject.weight / total))
            outcomes += _fuzzed(subject, share, seed, Path(folder))
    return outcomes


def _fuzzed(subject: Subject, count: int, seed: int, home: Path) -> list[Outcome]:
    rng = random.Random(f"{seed} {subject.name}")
    good, bad = home / "good", home / "bad"
    shutil.rmtree(good, ignore_errors=True)
    good.mkdir()
    subject.make(good)
    expected = plain(subject.read(good))
    found = []
    for number in range(count):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        mutation, lying = _mutated(subject, rng, bad)
        command = subject.ours and rng.random() < _COMMANDS
        result, said = _read(subject, bad, expected, lying, command)
        if result in ("silent", "traceback", "hang"):
            sys.stderr.write(f"{subject.name}, {number}, {mutation}: {result} {said}\n")
        found.append(Outcome(subject.name, mutation, result, said))
    return found


def _mutated(subject: Subject, rng: random.Random, folder: Path) -> tuple[str, bool]:
    """Change one file; says how, and whether its checksum was taken anew."""
    path = rng.choice(sorted(one for name in subject.files for one in folder.glob(name)))
    if subject.edit is not None and rng.random() < _LIES:
        # A collection is edited as a whole, for its files hold each other's checksums.
        subject.edit(rng, folder if subject.name == "collection" else path)
        return "edit", True
    while True:
        old = path.read_bytes()
        name, new = damaged(rng, old)
        if new != old:
            path.write_bytes(new)
            return f"{name} of {path.name}", False


def _read(
    subject: Subject, folder: Path, expected: str, lying: bool, command: bool
) -> tuple[str, str]:
    begun = time.monotonic()
    try:
        with _time_limit(), _quiet():
            if command and (refusal := _described(folder)):
                return "refused", refusal
            result = plain(subject.read(folder))
    except _Hang:
        return "hang", ""
    except MechguardError as error:
        said = str(error)
        if time.monotonic() - begun > LIMIT:
            return "hang", said
        whole = said and "\n" not in said and len(said) < _LONGEST and error.exit_code in (2, 3)
        return ("refused" if whole else "traceback"), said
    except Exception:
        return "traceback", " | ".join(traceback.format_exc().strip().splitlines()[-3:])
    if time.monotonic() - begun > LIMIT:
        return "hang", ""
    if result == expected:
        return "equal", ""
    return ("silent" if subject.ours and not lying else "other"), ""


def _described(folder: Path) -> str:
    """What `mechguard vector info` says against the file; nothing where it describes it."""
    inside = sorted(folder.glob("*.safetensors"))
    path = inside[0] if inside and inside[0].name != "policy.safetensors" else folder
    said, old = io.StringIO(), sys.argv
    sys.argv = ["mechguard", "vector", "info", "--json", str(path)]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            command_line()
    except SystemExit as stop:
        if stop.code in (0, None):
            return ""
        assert stop.code in (2, 3), f"exit {stop.code}"
        return said.getvalue() or "refused"
    finally:
        sys.argv = old
    return ""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and warnings of libraries, which say nothing here."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def table(outcomes: list[Outcome], seed: int) -> str:
    """A row a subject, in Markdown."""
    counts: dict[str, Counter[str]] = {}
    for one in outcomes:
        counts.setdefault(one.subject, Counter())[one.result] += 1
    head = ["file", "mutations", *OUTCOMES]
    lines = [
        f"{len(outcomes)} mutations, seed {seed}.",
        "",
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
    ]
    everything = sum(counts.values(), Counter[str]())
    for name, found in [*counts.items(), ("all", everything)]:
        numbers = [sum(found.values()), *(found[result] for result in OUTCOMES)]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main() -> None:
    """Fuzz, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=3500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="subjects whose name begins so")
    parser.add_argument("--doc", type=Path, help="Markdown file whose table is rewritten")
    arguments = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    chosen = [
        subject
        for subject in subjects()
        if arguments.only is None or subject.name.startswith(tuple(arguments.only))
    ]
    begun = time.monotonic()
    outcomes = run(chosen, arguments.count, arguments.seed)
    result = {
        "kind": "fuzz",
        "seed": arguments.seed,
        "count": len(outcomes),
        "seconds": round(time.monotonic() - begun, 1),
        "counts": Counter(one.result for one in outcomes),
        "worst": [vars(one) for one in outcomes if one.result in ("silent", "traceback", "hang")],
        "refusals": sorted({f"{one.subject}: {one.said}" for one in outcomes if one.said})[:2000],
    }
    if arguments.out:
        write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(table(outcomes, arguments.seed))
    if arguments.doc:
        rewrite(arguments.doc, "Fuzz", table(outcomes, arguments.seed))


if __name__ == "__main__":
    main()
