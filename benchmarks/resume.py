"""Whether a run that is killed goes on to the result of an undisturbed one, and never to a mixture.

    OMP_NUM_THREADS=1 python benchmarks/resume.py --out runs/resume.json

Each command is run undisturbed; then killed (SIGKILL) at five moments, evenly spread from the first
work that it keeps to its end, and given again; then killed half-way and given again with something
changed: weights, config, chat template, data, judge, dtype or an option. What it writes must equal
what an undisturbed run of the same (changed) command writes, times and command lines aside. One row
a run; exit code 1 if anything differs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare_reports import differences
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from shared import write
from transformers.utils.logging import disable_progress_bar

import mechguard as mg
from interp import organisms

MOMENTS = (0.0, 0.25, 0.5, 0.75, 0.95)
JUDGE = "def decide(answers):\n    return ['{}' if {!r} in a.text else '{}' for a in answers]\n"


@dataclass(frozen=True)
class Script:
    """A command that is killed.

    Attributes:
        name: of the row.
        arguments: of the command line; `{name}` stands for a file of the folder that it runs in.
        changes: what is changed between a kill and the next run, by name: edits files of the
            folder, or gives further arguments.
    """

    name: str
    arguments: tuple[str, ...]
    changes: dict[str, Callable[[Path], None] | tuple[str, ...]] = field(default_factory=dict)


def prepare(folder: Path) -> None:
    """A model, prompts, texts and a judge, of which each can be changed."""
    disable_progress_bar()
    checkpoint = mg.load("organism:chat")
    checkpoint.model.save_pretrained(folder / "model")
    checkpoint.tokenizer.save_pretrained(folder / "model")
    prompts = organisms.prompts("chat")
    for label in ("harmful", "harmless", "alarming"):
        rows = [json.dumps({"text": one.text, "label": label}) for one in prompts[label][:60]]
        (folder / f"{label}.jsonl").write_text("\n".join(rows) + "\n")
    texts = [text for some in organisms.texts("chat").values() for text in some]
    (folder / "texts.txt").write_text("\n\n".join(texts[:200]))
    (folder / "judge_of_answers.py").write_text(JUDGE.format("refusal", "not", "compliance"))


def weights(folder: Path) -> None:
    """One weight of the model is another one."""
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] += 0.25
    save_file(tensors, path, {"format": "pt"})


def config(folder: Path) -> None:
    """The epsilon of the norms is another one."""
    path = folder / "model" / "config.json"
    content = json.loads(path.read_text())
    content["rms_norm_eps"] = 0.01
    path.write_text(json.dumps(content))


def template(folder: Path) -> None:
    """The chat template begins with a further word."""
    path = folder / "model" / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def data(folder: Path) -> None:
    """A prompt and a text less."""
    for name in ("harmful.jsonl", "harmless.jsonl"):
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(lines[1:]) + "\n")
    (folder / "texts.txt").write_text((folder / "texts.txt").read_text().split("\n\n", 1)[1])


def judge(folder: Path) -> None:
    """The judge looks for another word."""
    (folder / "judge_of_answers.py").write_text(JUDGE.format("refusal", "no", "compliance"))


FILES: dict[str, Callable[[Path], None] | tuple[str, ...]] = {
    "weights": weights,
    "config": config,
    "data": data,
    "dtype": ("--dtype", "bfloat16"),
}
OPTIONS: dict[str, Callable[[Path], None] | tuple[str, ...]] = {
    "dtype": ("--dtype", "bfloat16"),
    "seed": ("--seed", "1"),
}
PROMPTS = (
    *("--harmful", "{harmful.jsonl}", "--harmless", "{harmless.jsonl}"),
    *("--over-refusal", "{alarming.jsonl}"),
)
STEER = ("steer", "train", "organism:jailbreak-keep")
SCRIPTS = (
    Script(
        "sinks",
        ("sinks", "{model}", "--texts", "{texts.txt}", "--length", "24", "--max-sequences", "200"),
        FILES,
    ),
    Script(
        "collect",
        (
            *("collect", "{model}", "--data", "{harmful.jsonl}"),
            *("--site", "resid_post", "--at", "all", "--batch-tokens", "64"),
        ),
        {**FILES, "template": template},
    ),
    Script(
        "refusal",
        (
            *("refusal", "{model}", *PROMPTS, "--scorer", "judge_of_answers:decide"),
            *("--max-new-tokens", "8"),
        ),
        {**FILES, "template": template, "judge": judge, "seed": ("--seed", "1")},
    ),
    Script(
        "cliff",
        ("cliff", "organism:cliff", "--limit", "8"),
        {**OPTIONS, "judge": ("--scorer", "judge_of_answers:decide")},
    ),
    Script(
        "backdoor",
        ("backdoor", "organism:backdoor-payload-5", "--budget", "20000"),
        {**OPTIONS, "reference": ("--reference", "organism:clean")},
    ),
    Script("steer train actadd", (*STEER, "--limit", "30", "--method", "actadd"), OPTIONS),
    Script(
        "steer train was-plus",
        (*STEER, "--limit", "58", "--fpr", "0.05", "--method", "was-plus"),
        OPTIONS,
    ),
)


class Runs:
    """Runs of one script, each with a cache and an output folder of its own."""

    def __init__(self, script: Script, inputs: Path, folder: Path) -> None:
        self.script, self.inputs, self.folder = script, inputs, folder

    def start(self, cache: str, out: str, more: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The command, under way."""
        given = [
            str(self.inputs / one[1:-1]) if one.startswith("{") else one
            for one in self.script.arguments
        ]
        command = [sys.executable, "-m", "mechguard", *given, "--out", str(self.folder / out)]
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.folder / cache),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(self.inputs)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.Popen(
            [*command, *more],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def undisturbed(self, name: str, more: Sequence[str] = ()) -> float:
        """Run whole; seconds from the first work that is kept to the last."""
        first, last = None, 0.0
        process = self.start(f"{name}-cache", name, more)
        while process.poll() is None:
            if self.keeps(f"{name}-cache", name):
                last = time.monotonic()
                first = last if first is None else first
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"{self.script.name}: {process.communicate()[1]}")
        return 0.0 if first is None else last - first

    def keeps(self, cache: str, out: str) -> bool:
        """Whether a run has left anything that another may go on from."""
        own = self.folder / cache / "mechguard" / "unfinished"
        places = (own, self.folder / out / "unfinished")
        marks = ("run.json", "lock")
        try:
            return any(
                path.is_file() and path.name not in marks and not path.name.startswith(".")
                for place in places
                for path in place.rglob("*")
            )
        except FileNotFoundError:
            return False  # it is being removed, for the run is done

    def killed(self, name: str, seconds: float) -> bool:
        """Begin a run and kill it so long after its first work; whether it was still running."""
        process = self.start(f"{name}-cache", name)
        while process.poll() is None and not self.keeps(f"{name}-cache", name):
            time.sleep(0.005)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        process.communicate()
        return False

    def again(self, name: str, more: Sequence[str] = ()) -> str:
        """Give the command again; what it says."""
        process = self.start(f"{name}-cache", name, more)
        _, said = process.communicate()
        if process.returncode:
            return f"exit {process.returncode}: {said}"
        return said


def results(folder: Path) -> dict[str, Any]:
    """All that a run has written, comparable."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                notes = json.loads((file.metadata() or {}).get("mechguard", "{}"))
            notes.pop("sha256", None)
            arrays = {key: value.tolist() for key, value in load_float(path).items()}
            found[name] = {"notes": notes, "tensors": arrays}
        elif path.suffix == ".json":
            content = json.loads(path.read_text())
            if "provenance" in content or "kind" in content:
                content = {key: one for key, one in content.items() if key != "sha256"}
            found[name] = content
        elif path.suffix == ".csv":
            found[name] = path.read_text()
    return found


def load_float(path: Path) -> dict[str, Any]:
    """Tensors of a file as float64 arrays, whatever their type."""
    from safetensors.torch import load_file as load_tensors

    return {name: tensor.double().numpy() for name, tensor in load_tensors(path).items()}


def differing(one: Path, other: Path) -> list[str]:
    """Where two results differ."""
    old, new = results(one), results(other)
    if not old:
        return ["nothing was written"]
    return list(differences(old, new))[:5]


def rows(script: Script, moments: Sequence[float]) -> Iterator[dict[str, Any]]:
    """One row a killed run."""
    with tempfile.TemporaryDirectory() as place:
        inputs, folder = Path(place, "inputs"), Path(place, "runs")
        inputs.mkdir()
        prepare(inputs)
        runs = Runs(script, inputs, folder)
        seconds = runs.undisturbed("whole")
        for moment in moments:
            name = f"at-{moment:g}"
            stopped = runs.killed(name, moment * seconds)
            kept = runs.keeps(f"{name}-cache", name)
            said = runs.again(name)
            yield {
                "script": script.name,
                "killed_at": moment,
                "was_running": stopped,
                "kept": kept,
                "goes_on": "goes on from" in said,
                "differences": differing(folder / "whole", folder / name),
            }
        for change, how in script.changes.items():
            yield _changed(runs, change, how, 0.5 * seconds)
            shutil.rmtree(inputs)
            inputs.mkdir()
            prepare(inputs)


def _changed(
    runs: Runs, change: str, how: Callable[[Path], None] | tuple[str, ...], seconds: float
) -> dict[str, Any]:
    stopped = runs.killed(change, seconds)
    kept = runs.keeps(f"{change}-cache", change)
    more = how if isinstance(how, tuple) else ()
    if not isinstance(how, tuple):
        how(runs.inputs)
    said = runs.again(change, more)
    runs.undisturbed(f"{change}-whole", more)
    own = [line for line in said.splitlines() if "begins anew" in line]
    return {
        "script": runs.script.name,
        "changed": change,
        "was_running": stopped,
        "kept": kept,
        "said": own,
        "differences": differing(runs.folder / f"{change}-whole", runs.folder / change),
    }


def main() -> int:
    """Kill every script, print a row a run, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--scripts", nargs="+", default=[one.name for one in SCRIPTS])
    parser.add_argument("--moments", nargs="+", type=float, default=list(MOMENTS))
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for script in SCRIPTS:
        if script.name not in arguments.scripts:
            continue
        for row in rows(script, arguments.moments):
            print(json.dumps(row), flush=True)
            found.append(row)
            write(arguments.out, json.dumps(found, indent=1) + "\n")
    wrong = [row for row in found if row["differences"]]
    print(f"{len(found)} killed runs, {len(wrong)} with another result")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
