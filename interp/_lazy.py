"""Façades that import nothing until a name is asked for (PEP 562)."""

import importlib
from collections.abc import Callable
from typing import Any


def attach(package: str, names: dict[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """Make a module-level `__getattr__` and an `__all__` from a map of name to submodule.

    Args:
        package: `__name__` of the façade.
        names: public name to the submodule that defines it; an empty string means that the name
            is itself a submodule.

    Raises:
        ValueError: a name is that of the submodule that defines it; importing the submodule would
            put the module in the place of the name.
    """
    for name, home in names.items():
        if name == home:
            raise ValueError(f"{package}.{name} would be hidden by the module {package}.{home}")

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(f"{package}.{names[name] or name}")
        return getattr(home, name) if names[name] else home

    return getattr_, sorted(names)
