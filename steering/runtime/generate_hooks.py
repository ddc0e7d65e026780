"""Around the model: hooks on its stream, the prompt of `generate`, and models without hooks."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.errors import InputError
from interp.model.sites import Site
from steering.runtime.copies import replaced

Opened = Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[None]]


def hooked(
    layers: nn.ModuleList, site: Site, look: Callable[[Tensor], Tensor | None]
) -> RemovableHandle:
    """Register a hook on the input or output of a block, which may replace it by another tensor.

    Costs less than `interp.edits.attach` where nothing is to be replaced, as in most decode steps.
    """
    layer = layers[site.layer]  # type: ignore[index]
    if site.name == "resid_pre":
        before = functools.partial(_before, look)
        return layer.register_forward_pre_hook(before, with_kwargs=True)
    return layer.register_forward_hook(functools.partial(_after, look))


def _before(
    look: Callable[[Tensor], Tensor | None],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if args:
        new = look(args[0])
        return None if new is None else ((new, *args[1:]), kwargs)
    new = look(kwargs["hidden_states"])
    return None if new is None else (args, {**kwargs, "hidden_states": new})


def _after(
    look: Callable[[Tensor], Tensor | None], module: nn.Module, args: tuple[Any, ...], output: Any
) -> Any:
    if isinstance(output, tuple):
        new = look(output[0])
        return None if new is None else (new, *output[1:])
    return look(output)


def generating(model: Any, opened: Opened) -> Callable[[], None]:
    """Open a context around each `model.generate`; returns what takes it away again.

    The model's forward is not compiled on its own account meanwhile, as transformers does on a GPU
    with a static cache: such a graph is kept, and would outlive the hooks in it.
    """
    original = model.generate

    @functools.wraps(original)
    def generate(*args: Any, **kwargs: Any) -> Any:
        with opened(args, kwargs):
            return original(*args, **_uncompiled(model, kwargs))

    return replaced(model, "generate", generate)


@contextmanager
def compiled_from(model: Any, steady: Callable[[], bool]) -> Iterator[None]:
    """Keep compiled code out of the passes of one `generate` until they are steady.

    A pass whose bookkeeping breaks its graph would be compiled in pieces, and the compiler would
    remember so of the model's code: no later pass would be one graph.
    """
    original = model.prepare_inputs_for_generation
    with ExitStack() as eagerly:
        eagerly.enter_context(torch.compiler.set_stance("force_eager"))

        @functools.wraps(original)
        def prepare(*args: Any, **kwargs: Any) -> Any:
            if steady():
                eagerly.close()
            return original(*args, **kwargs)

        restore = replaced(model, "prepare_inputs_for_generation", prepare)
        try:
            yield
        finally:
            restore()


def _uncompiled(model: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    if model.device.type == "cpu":
        return kwargs
    if (config := kwargs.get("generation_config")) is None:
        return {**kwargs, "disable_compile": True}
    config = copy.deepcopy(config)
    config.disable_compile = True
    return {**kwargs, "generation_config": config}


def told_prompt(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, Int[Tensor, " prompts"], int]:
    """Of a call of `generate`: columns of the prompts, their lengths, and columns in its cache.

    Raises:
        InputError: no prompt, padding on the right, or padding without an attention mask.
    """
    names = ("inputs_embeds", "input_ids", "inputs")
    given = next((kwargs[name] for name in names if kwargs.get(name) is not None), None)
    if given is None and args:
        given = args[0]
    if given is None:
        raise InputError("a steered model needs a prompt; give generate input_ids.")
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    columns = given.shape[1] if mask is None else mask.shape[1]
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    if mask is None:
        _require_no_padding(model, given, kwargs)
        lengths = torch.full((len(given),), columns, device=given.device)
    else:
        if bool((mask[:, -1] == 0).any()):
            raise InputError(
                "the prompts are padded on the right; a model that generates needs padding on the "
                "left (tokenizer.padding_side = 'left')."
            )
        lengths = mask.long().sum(-1)
    if positions is not None:
        lengths = positions[..., -1].expand(len(given)) + 1
    return columns, lengths, past


def _require_no_padding(model: Any, ids: Tensor, kwargs: dict[str, Any]) -> None:
    config = kwargs.get("generation_config") or model.generation_config
    pad = kwargs.get("pad_token_id", config.pad_token_id)
    if pad is not None and ids.ndim == 2 and bool((ids == pad).any()):
        raise InputError(
            "the prompts hold padding, and generate was given no attention_mask to tell where; "
            "pass the mask that the tokenizer returns."
        )


def require_uncompiled(model: nn.Module) -> None:
    """Refuse a model that torch has compiled, because hooks registered later never fire in it.

    Raises:
        InputError: naming the module.
    """
    kind: type = torch._dynamo.OptimizedModule
    for name, module in model.named_modules():
        compiled = (
            isinstance(module, kind)
            or module._compiled_call_impl is not None
            or hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")
        )
        if compiled:
            where = f"its {name} is" if name else "it is"
            raise InputError(
                f"a policy cannot be attached to this model, because {where} compiled already and "
                "its hooks would never fire; attach first and compile afterwards."
            )
