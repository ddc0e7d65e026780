"""Many streaming requests at once, half with the policy off: all answered right, nothing leaked.

A server process on an organism, and the official client in threads. Each round sends every request
at once; the answers are compared with those of each prompt run alone without a server. Resident
memory of the server is read after every round.

    python benchmarks/serving.py --out runs/serving.json
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
from shared import write

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from serving import NAME, Asked, asked, policy  # noqa: E402


def answered(client: openai.OpenAI, one: Asked, off: bool) -> tuple[bool, float, float]:
    """Whether the streamed answer is right, and seconds to the first text and to the end."""
    begin = time.perf_counter()
    first, pieces = 0.0, []
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": one.text}],
        stream=True,
        max_tokens=12,
        extra_body={"steering": "off" if off else 1.0},
    )
    for chunk in stream:
        text = chunk.choices[0].delta.content
        if text:
            first = first or time.perf_counter() - begin
            pieces.append(text)
    right = "".join(pieces) == (one.off if off else one.on)
    return right, first, time.perf_counter() - begin


def round_of(client: openai.OpenAI, count: int) -> dict[str, Any]:
    """All at once."""
    prompts = asked()
    jobs = [(prompts[i // 2 % len(prompts)], bool(i % 2)) for i in range(count)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda job: answered(client, *job), jobs))
    return {
        "requests": count,
        "right": sum(one[0] for one in found),
        "seconds": round(time.perf_counter() - begin, 2),
        "first_text_median_s": round(statistics.median(one[1] for one in found), 2),
        "end_median_s": round(statistics.median(one[2] for one in found), 2),
    }


def main() -> None:
    """Start a server, run the rounds, end it by SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--max-batch", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        policy().save(Path(folder))
        verb = "import typer; from analyses.cli.artefacts.serve import serve; typer.run(serve)"
        given = ["--port", "0", "--max-batch", options.max_batch, "--max-queue", options.requests]
        command = [sys.executable, "-c", verb, NAME, "--policy", folder, *map(str, given)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None, "the server did not start"
            client = openai.OpenAI(base_url=found[0], api_key="none", max_retries=0, timeout=600)
            memory, rounds = psutil.Process(process.pid), []
            for _ in range(options.rounds):
                rounds.append(round_of(client, options.requests))
                rounds[-1]["resident_mib"] = round(memory.memory_info().rss / 2**20, 1)
                print(json.dumps(rounds[-1]))
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
    result = {
        "policy_off": 0.5,
        "max_batch": options.max_batch,
        "cores": os.cpu_count(),
        "exit_status": status,
        "rounds": rounds,
    }
    write(options.out, json.dumps(result, indent=1))
    if any(one["right"] < one["requests"] for one in rounds) or status != 0:
        sys.exit("an answer was wrong, or the server did not end well")


if __name__ == "__main__":
    main()
