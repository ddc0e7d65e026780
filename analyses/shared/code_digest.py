"""Digests of code: what functions and classes do, with what they call and read of their module.

Compiled code is compared, so that a comment, a moved line or another folder changes nothing; names
of libraries are taken as they are, because the key of a run holds the libraries' versions.
"""

import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial, partialmethod
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")
_OF_EVERY_CLASS = (
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__hash__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "__firstlineno__", "__static_attributes__", "__slots__"),
    *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__parameters__"),
    *("__protocol_attrs__", "__non_callable_proto_members__", "__orig_bases__"),
)
_PLAIN = (str, bytes, bool, int, float, complex, type(None), type(Ellipsis))


def code_digest(defined: Any) -> str:
    """SHA-256 of what a function or a class does.

    Followed are functions and classes that it names, and constants of their modules, unless they
    belong to an installed library. What it finds in another way, such as in a file or by `getattr`,
    is not seen.

    Args:
        defined: a function of Python or a class.
    """
    reading = _Reading()
    text = json.dumps([reading.of(defined), *reading.parts()])
    return hashlib.sha256(text.encode()).hexdigest()


class _Reading:
    """One walk over code, in which every function and class is described once.

    They name one another by number, so that a long chain of calls nests nowhere.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._found: list[Any] = []
        self._within: list[int] = []

    def parts(self) -> Iterator[Any]:
        """The functions and classes that were found, and those found in these."""
        done = 0
        while done < len(self._found):
            defined = self._found[done]
            done += 1
            yield self._class(defined) if isinstance(defined, type) else self._function(defined)

    def of(self, value: Any) -> Any:
        """A function or class by its number, a constant as JSON, anything else by its type."""
        if isinstance(value, (staticmethod, classmethod)):
            return [type(value).__name__, self.of(value.__func__)]
        if isinstance(value, property):
            return ["property", *(self.of(one) for one in (value.fget, value.fset))]
        if isinstance(value, cached_property):
            return ["cached_property", self.of(value.func)]
        if isinstance(value, (partial, partialmethod)):
            return ["partial", *map(self.of, (value.func, value.args, value.keywords))]
        if isinstance(value, (ModuleType, BuiltinFunctionType)):
            return getattr(value, "__qualname__", value.__name__)
        if isinstance(value, (FunctionType, type)):
            return self._numbered(value)
        if isinstance(getattr(value, "__wrapped__", None), FunctionType):
            return [type(value).__name__, self._numbered(value.__wrapped__)]
        return self._constant(value)

    def _numbered(self, defined: Any) -> Any:
        if _is_installed(defined):
            return f"{defined.__module__}.{defined.__qualname__}"
        if id(defined) not in self._numbers:
            self._numbers[id(defined)] = len(self._found)
            self._found.append(defined)
        return self._numbers[id(defined)]

    def _constant(self, value: Any) -> Any:
        kind = type(value).__qualname__
        if isinstance(value, (*_PLAIN, Enum, PurePath)):
            return [kind, str(value) if isinstance(value, (Enum, PurePath)) else repr(value)]
        if isinstance(value, re.Pattern):
            return [kind, repr(value.pattern), int(value.flags)]
        if isinstance(value, np.ndarray):
            return [kind, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
        if id(value) in self._within:
            return kind
        self._within.append(id(value))
        try:
            return [kind, *self._held(value)]
        finally:
            self._within.pop()

    def _held(self, value: Any) -> list[Any]:
        if isinstance(value, Set):
            return sorted(map(self.of, value), key=json.dumps)
        if isinstance(value, dict):
            return [[self.of(key), self.of(one)] for key, one in value.items()]
        if isinstance(value, (list, tuple)):
            return [self.of(one) for one in value]
        if is_dataclass(value):
            return [self.of(getattr(value, field.name)) for field in fields(value)]
        return []

    def _function(self, function: FunctionType) -> Any:
        defaults = self.of([function.__defaults__, function.__kwdefaults__])
        named = [[name, self.of(value)] for name, value in _named(function)]
        cells = [self.of(held_in(cell)) for cell in function.__closure__ or ()]
        return [function.__qualname__, _compiled(function.__code__), defaults, named, cells]

    def _class(self, defined: type) -> Any:
        own = [key for key in sorted(vars(defined)) if key not in _OF_EVERY_CLASS]
        own = [key for key in own if not key.startswith("_abc_")]
        bases = [self.of(base) for base in defined.__mro__[1:]]
        return [defined.__qualname__, bases, [[key, self.of(vars(defined)[key])] for key in own]]


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function names of its module, and of modules that are no library."""
    names = sorted(_names(function.__code__))
    for name in names:
        if name in function.__globals__:
            value = function.__globals__[name]
            yield name, value
            if isinstance(value, ModuleType) and not _is_installed(value):
                held = vars(value)
                yield from ((f"{name}.{one}", held[one]) for one in names if one in held)


def _names(code: CodeType) -> set[str]:
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return set(code.co_names).union(*inner)


def _compiled(code: CodeType) -> list[Any]:
    """What compiled code does, without its place in a file."""
    names = [list(part) for part in (code.co_names, code.co_varnames, code.co_freevars)]
    constants = [_of_constant(one) for one in code.co_consts]
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), *names, counts, constants]


def _of_constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _compiled(value)
    if isinstance(value, frozenset):
        return ["frozenset", *sorted(map(repr, value))]
    if isinstance(value, tuple):
        return ["tuple", *map(_of_constant, value)]
    return [type(value).__name__, repr(value)]


def held_in(cell: CellType) -> Any:
    """What a cell of a closure holds; None where nothing was put there yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_installed(defined: Any) -> bool:
    """Whether something comes with Python or was installed; what has no file was typed in."""
    name = defined.__name__ if isinstance(defined, ModuleType) else defined.__module__
    if name is None or name == "__main__":
        return False
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and _within(file)


@cache
def _within(file: str) -> bool:
    places = {Path(sysconfig.get_path(name)).resolve() for name in _INSTALLED}
    return any(place in Path(file).resolve().parents for place in places)
