"""Start a forward pass in the middle.

An edit at layer l changes nothing before l. `start_at` feeds the stored `resid_pre` of that layer
and passes over the layers below it, so that many edits of one prompt cost only the layers from l
on; masks, positions and the rest of the model run as ever.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache

from interp.errors import InputError, UnsupportedModelError
from interp.model.loaded import LoadedModel
from interp.model.sites import Site


@contextmanager
def start_at(
    checkpoint: LoadedModel, layer: int, hidden: Float[Tensor, "batch length width"]
) -> Iterator[None]:
    """Skip the layers below `layer`, which receives `hidden` as its `resid_pre`.

    Call the model with the input ids that `hidden` came from (any embedding does, but attention
    mask and positions must fit) and `use_cache=False`.

    Args:
        checkpoint: the model.
        layer: 0-based; 0 skips nothing.
        hidden: the residual stream before `layer`, for every row of the batch to come.

    Raises:
        InputError: no such layer, `hidden` does not fit the batch, or a KV cache is in use.
        UnsupportedModelError: the family's layers do not hand on one tensor.
    """
    checkpoint.require(Site("resid_pre", layer))

    def inject(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        former = _check(args, kwargs, checkpoint)
        if former.shape != hidden.shape:
            raise InputError(
                f"hidden has shape {list(hidden.shape)}, but the pass needs {list(former.shape)}."
            )
        given = hidden.to(former.device, former.dtype)
        if args:
            return (given, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": given}

    skipped = list(checkpoint.layers[:layer])
    # A dispatched model (accelerate) has instance attributes of its own, which must come back.
    own = [module.__dict__.get("forward") for module in skipped]
    handle = checkpoint.layers[layer].register_forward_pre_hook(inject, with_kwargs=True)
    try:
        for module in skipped:
            module.__dict__["forward"] = _pass_through(module, checkpoint)
        yield
    finally:
        handle.remove()
        for module, former in zip(skipped, own, strict=True):
            del module.__dict__["forward"]
            if former is not None:
                module.__dict__["forward"] = former


def _pass_through(module: nn.Module, checkpoint: LoadedModel) -> Callable[..., Any]:
    entries = _returned_entries(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _check(args, kwargs, checkpoint)
        return hidden if entries is None else (hidden, *[None] * (entries - 1))

    return forward


def _returned_entries(layer: nn.Module) -> int | None:
    """How many entries a layer's output tuple has; None if it returns a tensor.

    Read off the source's return statements, because annotations of the modelling files lie
    (Gemma 3's says tuple, and returns a tensor).
    """
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(type(layer).forward)))
    except OSError:
        return None  # no source at hand; a wrong guess is refused by the layer that follows
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            return len(node.value.elts)
    return None


def _check(args: tuple[Any, ...], kwargs: dict[str, Any], checkpoint: LoadedModel) -> Tensor:
    """The hidden states that a layer was called with."""
    if any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
        raise InputError(
            "a pass that starts in the middle would leave holes in the KV cache; call the model "
            "with use_cache=False."
        )
    hidden = args[0] if args else kwargs["hidden_states"]
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        what = f"{hidden.ndim}-D tensors" if isinstance(hidden, Tensor) else type(hidden).__name__
        raise UnsupportedModelError(
            f"the layers of {checkpoint.anatomy.architecture} hand on {what} instead of "
            "[batch, length, width], so a pass cannot start in their middle; run it whole."
        )
    return hidden
