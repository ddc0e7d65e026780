"""Seconds that the identity of a checkpoint costs: hashed, kept in the cache, and asked for again.

    python benchmarks/identity.py MODEL --out runs/identity.json

Each of `--repeats` rounds empties the cache, loads MODEL in a fresh process and asks for its
fingerprint (`first`), asks again (`again`), and loads it in another process (`second`). Medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from shared import write

ASK = """
import json, sys, time
import mechguard as mg
checkpoint = mg.load(sys.argv[1])
begun = time.perf_counter()
fingerprint = checkpoint.fingerprint
first = time.perf_counter() - begun
begun = time.perf_counter()
assert checkpoint.fingerprint == fingerprint
again = time.perf_counter() - begun
size = sum(p.numel() for p in checkpoint.model.parameters())
print(json.dumps([fingerprint, first, again, size]))
"""


def asked(model: str, cache: str) -> tuple[str, float, float, int]:
    """Fingerprint, seconds of asking for it first and again, and parameters."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, model],
        env={**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprint, first, again, size = json.loads(done.stdout.splitlines()[-1])
    return fingerprint, first, again, size


def main() -> int:
    """Measure and print the medians; exit code 1 if two processes disagree on the fingerprint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args()
    rounds = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as cache:
            rounds.append((asked(arguments.model, cache), asked(arguments.model, cache)))
    found = {
        "parameters": rounds[0][0][3],
        "first": statistics.median(one[1] for one, _ in rounds),
        "again": statistics.median(one[2] for one, _ in rounds),
        "second": statistics.median(other[1] for _, other in rounds),
        "fingerprints": sorted({one[0] for pair in rounds for one in pair}),
    }
    print(json.dumps(found))
    write(arguments.out, json.dumps(found, indent=1) + "\n")
    return int(len(found["fingerprints"]) > 1)


if __name__ == "__main__":
    sys.exit(main())
