"""Organisms by name: where they lie, what is true of them, how to make and to check one."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from interp.checkpoint import Checkpoint
from interp.errors import CheckError, InputError
from interp.model.loading import from_model
from interp.organisms import cache as store
from interp.organisms.backdoors.recipes import NAMES as BACKDOOR_NAMES
from interp.organisms.backdoors.recipes import backdoor_recipe
from interp.organisms.bigram_backcopy.recipes import bigram_backcopy_recipes
from interp.organisms.chat.data import OrganismPrompt
from interp.organisms.chat.grammar import Split
from interp.organisms.chat.recipes import chat_recipes
from interp.organisms.folders import (
    TRUTH,
    load_model,
    read_truth,
    require_own_weights,
    round_weights,
    write_folder,
)
from interp.organisms.recipes import Bounds, Recipe
from interp.organisms.variants import Variant
from interp.training import SAVE_EVERY, one_thread, train_model

_TOLERANCE = 2e-3  # of a measured value that is computed again, on another machine
_CASES = 2  # of a share that may come out otherwise there

TrainingProgress = Callable[[int, float], None]

log = logging.getLogger("mechguard.organisms")


@cache
def _plain_recipes() -> dict[str, Recipe]:
    return {**bigram_backcopy_recipes(), **chat_recipes()}


def names() -> list[str]:
    """Names of the organisms; options after an @ make further ones (`organisms.Variant`)."""
    return [*_plain_recipes(), *BACKDOOR_NAMES]


def recipe(name: str | Variant) -> Recipe:
    """The recipe of an organism.

    Raises:
        InputError: there is none of that name, or it does not take the options.
    """
    variant = _variant(name)
    if variant.name in BACKDOOR_NAMES:
        return backdoor_recipe(variant)
    if variant.name not in _plain_recipes():
        raise InputError(f"There is no organism {variant.name!r}; there are {', '.join(names())}.")
    if variant.poison is not None or variant.of is not None:
        raise InputError(
            f"{variant}: {variant.name} has no backdoor, so it takes no poison and no of; leave "
            "them out."
        )
    return _plain_recipes()[variant.name]


def present(name: str | Variant) -> Path | None:
    """The folder of an organism that is shipped or was trained here before; None otherwise.

    Raises:
        InputError: there is no such organism.
    """
    variant = _variant(name)
    chosen = recipe(variant)
    shipped = Path(__file__).parent / "weights" / str(variant)
    cached = _cached(chosen, variant.seed)
    return next((folder for folder in (shipped, cached) if (folder / TRUTH).is_file()), None)


def path(name: str | Variant, *, progress: TrainingProgress | None = None) -> Path:
    """Folder of a checkpoint that transformers loads offline; trained first if it has to be.

    What is not shipped is trained once, in about a minute, and kept in the user's cache directory;
    two processes that ask at once train it once.

    Args:
        name: of the organism, with its options.
        progress: called with the number of steps done and the last loss in nats; by default a line
            is logged every few seconds.

    Raises:
        InputError: there is no such organism, or the cache cannot be written to.
        CheckError: the weights are not those that the truth file is about, or what was trained
            does not behave as its recipe owes.
    """
    folder = present(name) or train(name, progress=progress)
    require_own_weights(folder)
    return folder


def texts(name: str | Variant) -> dict[str, list[str]]:
    """Documents of each domain, in the organism's own tokens joined by spaces.

    Raises:
        InputError: there is no organism of that name.
    """
    return {domain: list(some) for domain, some in _texts(_variant(name)).items()}


def prompts(name: str | Variant, split: Split = "test") -> dict[str, list[OrganismPrompt]]:
    """The prompts that an organism brings, by label, such as `harmful` and `harmless`.

    Args:
        name: of the organism, with its options.
        split: `train`, `validation`, or `test`, whose pairs no organism is trained on.

    Raises:
        InputError: there is no such organism, or it does not chat.
    """
    return {label: list(some) for label, some in _prompts(_variant(name), split).items()}


@cache
def _texts(variant: Variant) -> dict[str, list[str]]:
    return recipe(variant).texts()


@cache
def _prompts(variant: Variant, split: Split) -> dict[str, list[OrganismPrompt]]:
    sets = recipe(variant).prompts
    if sets is None:
        raise InputError(f"{variant} does not chat and brings no prompts, only texts.")
    return sets.prompts(split)


def _variant(name: str | Variant) -> Variant:
    return name if isinstance(name, Variant) else Variant.parse(name)


def truth(name: str | Variant) -> dict[str, Any]:
    """The truth file of an organism: what was planted, and what it measures.

    Raises:
        InputError: there is no organism of that name.
    """
    return read_truth(path(name))


def train(
    name: str | Variant,
    out: Path | None = None,
    *,
    work: Path | None = None,
    progress: TrainingProgress | None = None,
) -> Path:
    """Train an organism and write its checkpoint folder, or nothing.

    Args:
        name: of the organism, with its options.
        out: the folder to make; it may exist if it is empty. The user's cache if None.
        work: folder that keeps the state of the run, so that a stopped one goes on from there; by
            default beside the cache.
        progress: called with the number of steps done and the last loss in nats; by default a line
            is logged every few seconds.

    Returns:
        The folder.

    Raises:
        InputError: there is no organism of that name, or `out` is in use or cannot be written to.
        CheckError: the model does not behave as its recipe owes; nothing is made.
    """
    variant = _variant(name)
    chosen = recipe(variant)
    progress = progress or store.news(str(variant), chosen.schedule.steps)
    folder = _cached(chosen, variant.seed) if out is None else Path(out)
    if out is None or work is None:
        store.make_home(str(variant))
    if out is not None:
        _require_free(folder)
    work = work or store.home() / "unfinished"
    _make_folder(work)
    with store.alone(work / _key(chosen, variant.seed)):
        if out is not None or not (folder / TRUTH).is_file():
            if out is None:
                # Of level warning, so that a notebook without logging shows why it takes a minute.
                log.warning("training %s once, about a minute, into %s", variant, folder.parent)
            train_recipe(chosen, folder, variant.seed, work=work, progress=progress)
    return folder


def _key(chosen: Recipe, seed: int) -> str:
    """Changes with the organism and with anything that its recipe declares."""
    return f"{replace(chosen.variant, seed=seed)}-{chosen.fingerprint(seed)}"


def _cached(chosen: Recipe, seed: int) -> Path:
    return store.home() / _key(chosen, seed)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}); name another folder."
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to; name another folder.")


def _require_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name another one.")


def train_recipe(
    chosen: Recipe,
    out: Path,
    seed: int = 0,
    *,
    work: Path | None = None,
    save_every: int = SAVE_EVERY,
    progress: TrainingProgress | None = None,
) -> dict[str, Any]:
    """`train` for a recipe that need not be registered; returns the truth file's content."""
    out = Path(out)
    _require_free(out)
    _make_folder(out.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    own = work / _key(chosen, seed) if work else None
    try:
        model = chosen.architecture.build(seed, chosen.attention)
        train_model(
            model,
            chosen.batches(seed),
            chosen.schedule,
            pin=chosen.pin,
            during=chosen.during(seed) if chosen.during else None,
            about={"recipe": chosen.fingerprint(seed), "seed": seed},
            work=own,
            save_every=save_every,
            progress=progress,
        )
        round_weights(model, chosen.storage)
        measured = _measured(chosen, model, seed)
        missed = misses(measured, chosen.expected)
        if missed:
            raise CheckError(
                f"{chosen.name} with seed {seed} does not behave as its recipe owes: "
                f"{'; '.join(missed)}."
            )
        content = write_folder(part, chosen, model, seed, measured)
        part.chmod(0o755)
        os.replace(part, out)
        if own:
            shutil.rmtree(own, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return content


def verify(path_or_name: Path | str) -> dict[str, Any]:
    """Compute an organism's behaviour again and hold it against its truth file and its recipe.

    Args:
        path_or_name: the name of an organism, or a folder that `train` wrote.

    Returns:
        The truth file's content, with what was measured now.

    Raises:
        InputError: neither an organism nor a folder with a readable truth file.
        CheckError: the weights are not those of the truth file, a value has moved, or a value is
            outside of what the recipe owes.
    """
    folder = Path(path_or_name)
    if not folder.is_dir():
        if Variant.parse(str(path_or_name)).name not in names():
            raise InputError(
                f"{path_or_name} is neither a folder nor an organism; there are "
                f"{', '.join(names())}."
            )
        folder = path(str(path_or_name))
    require_own_weights(folder)
    content = read_truth(folder)
    chosen = recipe(content["name"])
    measured = _measured(chosen, load_model(folder, chosen.attention), content["seed"])
    moved = _moved(content["measured"], measured)
    if moved or misses(measured, chosen.expected):
        raise CheckError(
            f"{folder} does not behave as it should: "
            f"{'; '.join([*moved, *misses(measured, chosen.expected)])}."
        )
    return {**content, "measured": measured}


def _measured(chosen: Recipe, model: Any, seed: int) -> dict[str, Any]:
    with one_thread():
        return chosen.measure(as_checkpoint(chosen, model), seed)


def as_checkpoint(chosen: Recipe, model: Any) -> Checkpoint:
    """A trained model with the tokenizer of its recipe."""
    return Checkpoint.of(from_model(model, tokenizer=chosen.tokenizer()))


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
    cases = measured.get("n", {})
    clauses = []
    for quantity, value in measured.items():
        if not isinstance(value, float):
            continue
        said = recorded.get(quantity)
        slack = _TOLERANCE * max(1.0, abs(value))
        if quantity in cases:
            slack = max(slack, _CASES / cases[quantity])
        if said is None or abs(value - said) > slack:
            told = "nothing" if said is None else f"{said:.4g}"
            clauses.append(f"{quantity} is {value:.4g} where the truth file says {told}")
    return clauses
