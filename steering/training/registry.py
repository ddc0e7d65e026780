"""Trainable methods by name. Each is one file of `steering.training.methods`, found by itself.

A method's name is that of its file, with dashes; what it is, in a line, is the first line of the
file's docstring. So names and summaries are known without importing torch, which the command line
needs for its help; a method's code is imported when it is asked for.
"""

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from interp.errors import InputError

if TYPE_CHECKING:
    from steering.training.candidates import Fitted
    from steering.training.examples import Captured, Progress
    from steering.training.options import Options

DEFAULT = "was-plus"
_PACKAGE = "steering.training.methods"
_registered: "dict[str, Method]" = {}


class Candidates(Protocol):
    """How a method is fitted to captured states."""

    def __call__(
        self,
        read: "Captured",
        options: "Options",
        workdir: Path | None,
        progress: "Progress | None",
        /,
    ) -> "Fitted":
        """Fit, and name the settings that are to be tried through the model.

        Args:
            read: states of the training prompts.
            options: of the training.
            workdir: where a stopped phase of training leaves its state; None keeps none.
            progress: called with (stage, done, total).
        """


@dataclass(frozen=True)
class Method:
    """A method that policies can be trained with.

    Attributes:
        name: by which it is asked for.
        candidates: how it is fitted.
    """

    name: str
    candidates: Candidates


def trainable(name: str) -> Callable[[Candidates], Candidates]:
    """Register a function as the way in which a method is fitted; a decorator.

    Args:
        name: of the method; inside of `steering.training.methods` that of the file, with dashes.

    Raises:
        ValueError: there is a method of this name already.
    """
    if name in _registered:
        raise ValueError(f"the method {name!r} is registered twice")

    def register(candidates: Candidates) -> Candidates:
        _registered[name] = Method(name, candidates)
        return candidates

    return register


def names() -> tuple[str, ...]:
    """All methods: the default one, then the others by name."""
    return tuple(sorted({*_files(), *_registered}, key=_order))


def summaries() -> dict[str, str]:
    """What each method of the package is, in a line, by its name."""
    found = {}
    files = _files()
    for name in sorted(files, key=_order):
        spec = importlib.util.find_spec(files[name])
        assert spec is not None and spec.origin is not None  # pkgutil has found it
        source = Path(spec.origin).read_text(encoding="utf-8")
        found[name] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return found


def require_method(name: str) -> Method:
    """The method of a name.

    Raises:
        InputError: there is no such method.
        LookupError: its file registers none of this name.
    """
    files = _files()
    if name not in _registered and name in files:
        importlib.import_module(files[name])
        if name not in _registered:
            raise LookupError(f"{files[name]} registers no method {name!r}")
    if name not in _registered:
        raise InputError(f"there is no method {name!r}; there are {', '.join(names())}.")
    return _registered[name]


def _order(name: str) -> tuple[bool, str]:
    return name != DEFAULT, name


def _files() -> dict[str, str]:
    """Name of a method to the module that registers it."""
    package = importlib.import_module(_PACKAGE)
    return {
        module.name.replace("_", "-"): f"{_PACKAGE}.{module.name}"
        for module in pkgutil.iter_modules(package.__path__)
    }
