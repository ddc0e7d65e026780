"""Trainable methods by name. Each is one file of `steering.training.methods`, found by itself.

A method's name is that of its file, with dashes; what it is, in a line, is the first line of the
file's docstring. So names and summaries are known without importing torch, which the command line
needs for its help; a method's code is imported when it is asked for.
"""

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path

from interp.errors import InputError
from steering.training.trainable_method import REGISTERED, Method

DEFAULT = "was-plus"
_PACKAGE = "steering.training.methods"


def names() -> tuple[str, ...]:
    """All methods: the default one, then the others by name."""
    return tuple(sorted({*_files(), *REGISTERED}, key=_order))


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
    if name not in REGISTERED and name in files:
        importlib.import_module(files[name])
        if name not in REGISTERED:
            raise LookupError(f"{files[name]} registers no method {name!r}")
    if name not in REGISTERED:
        raise InputError(f"there is no method {name!r}; there are {', '.join(names())}.")
    return REGISTERED[name]


def _order(name: str) -> tuple[bool, str]:
    return name != DEFAULT, name


def _files() -> dict[str, str]:
    """Name of a method to the module that registers it."""
    package = importlib.import_module(_PACKAGE)
    return {
        module.name.replace("_", "-"): f"{_PACKAGE}.{module.name}"
        for module in pkgutil.iter_modules(package.__path__)
    }
