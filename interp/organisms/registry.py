"""Organisms by name: where they lie, what is true of them, how to make and to check one."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from interp.errors import CheckError, InputError
from interp.organisms.recipes import Bounds, Recipe, bigram_backcopy_recipes
from interp.organisms.tokenizer import word_level_tokenizer
from interp.organisms.training import one_thread, train_model

FORMAT_VERSION = 1
_TOLERANCE = 2e-3  # of a measured value that is computed again, on another machine
_WEIGHTS = "model.safetensors"
_TRUTH = "truth.json"


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes, by name."""
    return bigram_backcopy_recipes()


def names() -> list[str]:
    """Names of the organisms."""
    return list(recipes())


def recipe(name: str) -> Recipe:
    """The recipe of an organism.

    Raises:
        InputError: there is none of that name.
    """
    if name not in recipes():
        raise InputError(f"There is no organism {name!r}; there are {', '.join(names())}.")
    return recipes()[name]


def path(name: str) -> Path:
    """Folder of the shipped checkpoint (seed 0), which transformers loads offline.

    Raises:
        InputError: there is no organism of that name.
    """
    return Path(__file__).parent / "weights" / recipe(name).name


def texts(name: str) -> dict[str, list[str]]:
    """Documents of each domain, in the organism's own tokens joined by spaces.

    Raises:
        InputError: there is no organism of that name.
    """
    return recipe(name).texts()


def truth(name: str) -> dict[str, Any]:
    """The truth file of the shipped checkpoint: what was planted, and what it measures.

    Raises:
        InputError: there is no organism of that name.
    """
    return _read_truth(path(name))


def train(
    name: str,
    out: Path,
    seed: int = 0,
    *,
    work: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train an organism and write its checkpoint folder, or nothing.

    Args:
        name: of the organism.
        out: the folder to make; it may exist if it is empty.
        seed: of the initialisation and of the data.
        work: folder that keeps the state of the run, so that a stopped one goes on from there.
        progress: called with the number of steps done and the last loss in nats.

    Returns:
        The truth file's content.

    Raises:
        InputError: there is no organism of that name, or `out` is in use.
        CheckError: the model does not behave as its recipe owes; `out` is not made.
    """
    return train_recipe(recipe(name), out, seed, work=work, progress=progress)


def train_recipe(
    chosen: Recipe,
    out: Path,
    seed: int = 0,
    *,
    work: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """`train` for a recipe that need not be registered."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name another one.")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        model = chosen.architecture.build(seed)
        train_model(
            model,
            chosen.batches(seed),
            chosen.schedule,
            pin=chosen.pin,
            work=work / f"{chosen.name}-{seed}" if work else None,
            progress=progress,
        )
        with one_thread():
            measured = chosen.measure(model)
        missed = misses(measured, chosen.expected)
        if missed:
            raise CheckError(
                f"{chosen.name} with seed {seed} does not behave as its recipe owes: "
                f"{'; '.join(missed)}."
            )
        content = _write(part, chosen, model, seed, measured)
        part.chmod(0o755)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return content


def verify(path_or_name: Path | str) -> dict[str, Any]:
    """Compute an organism's behaviour again and hold it against its truth file and its recipe.

    Args:
        path_or_name: the name of a shipped organism, or a folder that `train` wrote.

    Returns:
        The truth file's content, with what was measured now.

    Raises:
        InputError: neither an organism nor a folder with a readable truth file.
        CheckError: the weights are not those of the truth file, a value has moved, or a value is
            outside of what the recipe owes.
    """
    folder = path(path_or_name) if path_or_name in recipes() else Path(path_or_name)
    if not folder.is_dir():
        raise InputError(
            f"{path_or_name} is neither a folder nor an organism; there are {', '.join(names())}."
        )
    content = _read_truth(folder)
    chosen = recipe(content["name"])
    found = _sha256(folder / _WEIGHTS)
    if found != content["weights_sha256"]:
        raise CheckError(
            f"The weights in {folder} have sha256 {found[:12]}…, but its truth file is about "
            f"{content['weights_sha256'][:12]}…; train the organism again."
        )
    with one_thread():
        measured = chosen.measure(_load(folder))
    moved = _moved(content["measured"], measured)
    if moved or misses(measured, chosen.expected):
        raise CheckError(
            f"{folder} does not behave as it should: "
            f"{'; '.join([*moved, *misses(measured, chosen.expected)])}."
        )
    return {**content, "measured": measured}


def misses(measured: dict[str, Any], owed: Bounds) -> list[str]:
    """A clause for every measured value that is outside of what is owed."""
    clauses = []
    for quantity, (low, high) in owed.items():
        value = measured[quantity]
        if not (low is None or value >= low):
            clauses.append(f"{quantity} is {value:.4g}, owed at least {low:g}")
        if not (high is None or value <= high):
            clauses.append(f"{quantity} is {value:.4g}, owed at most {high:g}")
    return clauses


def _moved(recorded: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    return [
        f"{quantity} is {value:.4g} where the truth file says {recorded[quantity]:.4g}"
        for quantity, value in measured.items()
        if isinstance(value, float)
        and abs(value - recorded[quantity]) > _TOLERANCE * max(1.0, abs(recorded[quantity]))
    ]


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with _quiet():
        return AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        ).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars: one tensor a bar is no progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write(
    folder: Path, chosen: Recipe, model: Any, seed: int, measured: dict[str, Any]
) -> dict[str, Any]:
    from transformers import GenerationConfig

    shape = chosen.architecture
    tokens = chosen.tokens
    with _quiet():
        model.save_pretrained(folder)
    (folder / _WEIGHTS).chmod(0o644)
    GenerationConfig(
        bos_token_id=shape.bos, eos_token_id=shape.eos, pad_token_id=shape.pad
    ).save_pretrained(folder)
    word_level_tokenizer(
        tokens,
        bos=tokens[shape.bos],
        pad=tokens[shape.pad],
        eos=None if shape.eos is None else tokens[shape.eos],
    ).save_pretrained(folder)
    content = {
        "format_version": FORMAT_VERSION,
        "name": chosen.name,
        "summary": chosen.summary,
        **chosen.facts,
        "recipe": {"architecture": asdict(shape), "schedule": asdict(chosen.schedule)},
        "seed": seed,
        "steps": chosen.schedule.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "expected": {k: list(bounds) for k, bounds in chosen.expected.items()},
        "measured": measured,
        "twins": chosen.twins,
        "weights_sha256": _sha256(folder / _WEIGHTS),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / _TRUTH).write_text(text + "\n", encoding="utf-8")
    return content


def _read_truth(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / _TRUTH).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {_TRUTH}; it is no organism's folder.") from None
    except ValueError as error:
        raise InputError(f"{folder / _TRUTH} is not readable JSON ({error}).") from error
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder / _TRUTH} has format version {content.get('format_version')}; this version "
            f"reads {FORMAT_VERSION}."
        )
    return content


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"{file.parent} has no {file.name}; train the organism again.")
    return hashlib.sha256(file.read_bytes()).hexdigest()
