"""Methods put on one object in the place of its class's own, and deep copies without them.

`copy.deepcopy` takes hooks along and keeps functions as they are: a copy of a steered model would
call the hooks of a copied attachment, and its `generate` would run the original. So every module
that carries something of an attachment copies itself without it.
"""

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

_OWN = "_mechguard_own"  # what a method of ours stands in the place of
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def replaced(target: Any, name: str, method: Callable[..., Any]) -> Callable[[], None]:
    """Put a method in the place of an object's own; returns what takes it away again."""
    own = target.__dict__.get(name)
    setattr(method, _OWN, own)
    setattr(target, name, method)
    return functools.partial(_put_back, target, name, own)


def _put_back(target: Any, name: str, own: Callable[..., Any] | None) -> None:
    if own is None:
        target.__dict__.pop(name, None)
    else:
        setattr(target, name, own)


def copying_bare(
    modules: Iterable[nn.Module], handles: Iterable[RemovableHandle]
) -> Callable[[], None]:
    """Have `copy.deepcopy` of each module leave out some hooks and every replaced method.

    Args:
        modules: that carry them.
        handles: of the hooks.

    Returns:
        What makes the modules copy themselves as before.
    """
    ids = frozenset(handle.id for handle in handles)
    restore = [
        replaced(module, "__deepcopy__", _copier(module, ids)) for module in dict.fromkeys(modules)
    ]

    def undo() -> None:
        for each in restore:
            each()

    return undo


def _copier(module: nn.Module, ids: frozenset[int]) -> Callable[[dict[int, Any]], Any]:
    def copier(memo: dict[int, Any]) -> Any:
        for name in _HOOKS[:2]:
            for key, hook in getattr(module, name).items():
                if key in ids:
                    memo[id(hook)] = _gone  # so that it is not copied with all that it holds
        new = _copied(module, memo)
        for name in _HOOKS:
            for key in ids:
                getattr(new, name).pop(key, None)
        for name, method in list(new.__dict__.items()):
            if hasattr(method, _OWN):
                _put_back(new, name, copy.deepcopy(getattr(method, _OWN), memo))
        return new

    return copier


def _gone() -> None:
    """Stands where a hook of ours was, until the copy is whole."""


def _copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    """As `copy.deepcopy` does where an object has no `__deepcopy__` of its own."""
    of_class = getattr(type(module), "__deepcopy__", None)
    if of_class is not None:
        return of_class(module, memo)
    reduced: Any = module.__reduce_ex__(4)
    make, arguments, state = reduced[:3]
    new: Any = make(*arguments)
    memo[id(module)] = new
    new.__setstate__(copy.deepcopy(state, memo))
    return new
