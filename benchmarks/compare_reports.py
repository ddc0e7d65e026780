"""Compare reports of two versions of mechguard, value by value.

What a run measures must not change when code moves. Names may: `NAMES` and `WORDS` map old ones to
new ones. Run both versions with the same number of threads, for example

    OMP_NUM_THREADS=1 mechguard sinks organism:bb-plain-3 --out runs/after/sinks
    python benchmarks/compare_reports.py runs/before/sinks runs/after/sinks

Left out are times, the command, throughput, and versions of libraries. The output is one JSON
line a report; the exit code is 1 if a value differs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = {
    "twin": "reference",
    "twin_interval": "reference_interval",
    "excess_over_twin": "excess_over_reference",
    "q_twin": "q_reference",
    "judge": "scorer",
}
"""Keys that were renamed on purpose."""

WORDS = {"the twin": "the reference model", "a twin": "a reference model"}
"""Words of sentences that were replaced on purpose."""

_SECONDS = re.compile(r"\d[\d.,]* s of")
LEFT_OUT = {"started", "wall_seconds", "command", "versions", "throughput_ratio", "seconds"}
NEW = {"not_measured", "intervals"}
"""Keys that only newer reports have."""


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where two pieces of JSON differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        renamed = {NAMES.get(key, key): value for key, value in old.items()}
        new = {NAMES.get(key, key): value for key, value in new.items()}
        for key in sorted({*renamed, *new} - LEFT_OUT - (NEW - renamed.keys())):
            if key not in renamed and new[key] is None:
                continue  # what was not measured has a key now
            if key not in renamed or key not in new:
                yield f"{path}/{key}: only in the {'old' if key in renamed else 'new'} report"
            else:
                yield from differences(renamed[key], new[key], f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}: {len(old)} entries, now {len(new)}"
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, f"{path}/{index}")
    elif isinstance(old, str) and isinstance(new, str):
        if spoken(old) != spoken(new):
            yield f"{path}: {old!r}, now {new!r}"
    elif old != new:
        yield f"{path}: {old!r}, now {new!r}"


def spoken(text: str) -> str:
    """A sentence without the seconds that a run took, in today's words."""
    for old, new in WORDS.items():
        text = text.replace(old, new)
    return _SECONDS.sub("... s of", text)


def counted(value: Any) -> int:
    """Numbers, strings and nulls in a piece of JSON."""
    if isinstance(value, dict):
        return sum(map(counted, value.values()))
    if isinstance(value, list):
        return sum(map(counted, value))
    return 1


def main() -> int:
    """Compare two folders and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="folder of the older report")
    parser.add_argument("new", type=Path, help="folder of the newer report")
    arguments = parser.parse_args()
    old, new = (
        json.loads((folder / "report.json").read_text("utf-8"))
        for folder in (arguments.old, arguments.new)
    )
    found = list(differences(old, new))
    print(json.dumps({"kind": new["kind"], "values": counted(old), "differences": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
