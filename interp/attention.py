"""Attention under observation: a function registered with transformers' `AttentionInterface`.

While `observe` is open the model's attention runs through us: the output comes from the kernel
that SDPA itself would use (bit-equal on CPU), the statistics from its log-sum-exp, and every layer
hands over its post-RoPE queries, keys and values. On leaving, also by an exception, the former
implementation is back.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    AttentionMaskInterface,
    causal_mask_function,
    eager_mask,
    sdpa_mask,
)

from interp.anatomy import Anatomy
from interp.errors import InputError, UnsupportedModelError
from interp.kernels import AttentionInputs, AttentionStatistics, Demand, attend
from interp.modules import attention_module, decoder_layers

AttentionPath = Literal["auto", "eager"]
# Names with "sdpa" or "flex_attention" in them would be routed through those backends' checks.
_STREAMED, _EAGER = "mechguard", "mechguard_eager"


@dataclass
class AttentionCall:
    """What one layer hands over in one forward pass.

    `output` [batch heads queries dim] is the result before any output gate; an editor may replace
    it. `statistics` is None unless the tap demanded some.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    statistics: AttentionStatistics | None


@dataclass(eq=False)
class Tap:
    """Someone who looks at, or edits, the attention of one layer.

    `demand` is asked for statistics; `real` [batch length] and `keys` [batch keys] are set by the
    owner before each forward pass. `receive` may replace `call.output`.
    """

    receive: Callable[[AttentionCall], None]
    demand: Demand = field(default_factory=Demand)
    real: Tensor | None = None
    keys: Tensor | None = None


@dataclass
class _Binding:
    layer: int
    window: int | None
    taps: list[Tap]


_BOUND: "WeakKeyDictionary[nn.Module, _Binding]" = WeakKeyDictionary()


@contextmanager
def observe(
    model: PreTrainedModel,
    anatomy: Anatomy,
    taps: dict[int, Tap],
    attention: AttentionPath = "auto",
) -> Iterator[None]:
    """Route the model's attention through the registered function, with one tap a layer.

    Nested uses compose: taps of an outer context run first, so that an outer intervention is what
    an inner recorder sees.

    Args:
        model: the model; its config is restored on leaving.
        anatomy: of the same model.
        taps: layer index to tap; layers without one only compute their output.
        attention: `auto` computes statistics beside the SDPA kernel; `eager` runs the model file's
            own eager attention and reads its T×T weights, the slow reference.

    Raises:
        UnsupportedModelError: the model code does not use the attention interface.
    """
    require_interface(anatomy)
    modules = {
        index: module
        for index, layer in enumerate(decoder_layers(model))
        if (module := attention_module(layer)) is not None
    }
    configs = _attention_configs(model, modules)
    before = [(config, config._attn_implementation_internal) for config in configs]
    outermost = not any(module in _BOUND for module in modules.values())
    implementation = _STREAMED if attention == "auto" else _EAGER
    for index, module in modules.items():
        if module not in _BOUND:
            _BOUND[module] = _Binding(index, anatomy.layers[index].window, [])
        if index in taps:
            _BOUND[module].taps.append(taps[index])
    try:
        for config in configs:
            if outermost or implementation == _EAGER:
                config._attn_implementation_internal = implementation
        yield
    finally:
        for config, former in before:
            config._attn_implementation_internal = former
        for index, module in modules.items():
            if index in taps:
                _BOUND[module].taps.remove(taps[index])
            if outermost:
                del _BOUND[module]


def require_interface(anatomy: Anatomy) -> None:
    """Refuse a model whose attention cannot be observed.

    Raises:
        UnsupportedModelError: with the reason and the way out.
    """
    if not anatomy.interface:
        raise UnsupportedModelError(
            f"{anatomy.architecture} ({anatomy.model_type}) does not route its attention through "
            "transformers' AttentionInterface, so exact statistics beside SDPA are not possible; "
            'ask for attention="eager" (--attention eager) to read its own attention weights.'
        )


def _attention_configs(model: PreTrainedModel, modules: dict[int, nn.Module]) -> list[Any]:
    """The config objects that the decoder reads its implementation from, each once."""
    layers = decoder_layers(model)
    owners: list[Any] = [module.config for module in modules.values() if hasattr(module, "config")]
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and any(m is layers for m in module.modules()):
            owners.append(module.config)
    return list({id(config): config for config in owners}.values())


def _streamed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with statistics; the signature is transformers' contract."""
    binding = _bound(module, kwargs)
    taps = binding.taps
    demand = _demand(taps)
    prefill = query.shape[2] == key.shape[2]
    if demand and not prefill:
        raise InputError(
            "attention statistics need a whole forward pass: call the model without a KV cache"
        )
    plain = softcap is None and s_aux is None
    windowed = attention_mask is None and binding.window is not None and prefill
    statistics = None
    if plain and not demand and not windowed:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        output = output.transpose(1, 2)
    else:
        inputs, rows = _inputs(binding, query, key, value, attention_mask, scaling, softcap, s_aux)
        output, statistics = attend(inputs, demand)
        output = output[:, :, rows:]
    call = AttentionCall(binding.layer, query, key, value, output, statistics)
    for tap in taps:
        tap.receive(call)
    return call.output.transpose(1, 2).contiguous(), None


def _inputs(
    binding: _Binding,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[AttentionInputs, int]:
    """Gather a call; a decoding step is framed as the last rows of a square problem."""
    batch, _, rows, dim = query.shape
    length = key.shape[2]
    if mask is None and 1 < rows < length:
        # An empty static cache is longer than the prompt; what lies behind it is not written yet.
        key, value, length = key[:, :, :rows], value[:, :, :rows], rows
    missing = length - rows
    if missing:
        query = torch.cat([query.new_zeros(batch, query.shape[1], missing, dim), query], 2)
        if mask is not None:
            mask = torch.cat([mask.new_zeros(*mask.shape[:2], missing, length), mask], 2)
    given = [tap.real for tap in binding.taps if tap.real is not None]
    real = given[0] if given else torch.ones(batch, length, dtype=torch.bool, device=key.device)
    keys = [tap.keys for tap in binding.taps if tap.keys is not None]
    inputs = AttentionInputs(
        query=query,
        key=key,
        value=value,
        scale=dim**-0.5 if scaling is None else float(scaling),
        real=real.to(key.device),
        mask=mask,
        window=binding.window if mask is None else None,
        softcap=softcap,
        sinks=sinks,
        keys=keys[0].to(key.device) if keys else None,
    )
    return inputs, missing


def _by_eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model file's own eager attention, with statistics read off its T×T weights."""
    binding = _bound(module, kwargs)
    own = sys.modules[type(module).__module__].eager_attention_forward
    output, weights = own(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    demand = _demand(binding.taps)
    statistics = None
    if demand:
        real = next(tap.real for tap in binding.taps if tap.real is not None)
        keys = next((tap.keys for tap in binding.taps if tap.keys is not None), None)
        statistics = statistics_of_weights(weights, real, keys, demand, kwargs.get("s_aux"))
    call = AttentionCall(binding.layer, query, key, value, output.transpose(1, 2), statistics)
    for tap in binding.taps:
        tap.receive(call)
    return call.output.transpose(1, 2).contiguous(), weights


def statistics_of_weights(
    weights: Tensor, real: Tensor, keys: Tensor | None, demand: Demand, sinks: Tensor | None = None
) -> AttentionStatistics:
    """Read the statistics off explicit attention weights [batch heads length length].

    With learned sinks (`sinks`, [heads]) a row that sums to less than one has its sink column
    dropped, and a row that sums to one (Granite-SWA) hides its sink behind the output; the second
    cannot be read off the weights.

    Raises:
        UnsupportedModelError: learned sinks that leave no trace in the weights.
    """
    counted = weights.double() * real[:, None, :, None]
    over = counted.sum(-1, keepdim=True)
    tokens = counted / over.where(over > 0, torch.ones_like(over))
    mass = counted.sum(2)
    columns = counted / mass.where(mass > 0, torch.ones_like(mass))[:, :, None]
    if sinks is not None and bool(
        torch.all((over.squeeze(-1) - 1).abs()[_wide(real, over)] < 1e-6)
    ):
        raise UnsupportedModelError(
            "the eager weights of this model hide its learned sinks (its rows sum to 1); use "
            "attention='auto', which computes them."
        )
    chosen = None
    if demand.chosen and keys is not None:
        index = keys[:, None, None, :].expand(-1, *counted.shape[1:3], -1)
        chosen = counted.gather(3, index).float()
    return AttentionStatistics(
        lse=torch.zeros_like(mass).float(),
        chosen=chosen,
        column=mass.float() if demand.column else None,
        column_entropy=_entropy(columns, 2) if demand.column_entropy else None,
        entropy=_entropy(tokens, 3) if demand.entropy else None,
        square=tokens.square().sum(-1).float() if demand.square else None,
        learned_sink=_missing_mass(over, real)
        if demand.learned_sink and sinks is not None
        else None,
    )


def _wide(real: Tensor, over: Tensor) -> Tensor:
    return real[:, None, :].expand(over.shape[:3])


def _missing_mass(over: Tensor, real: Tensor) -> Tensor:
    return (1 - over.squeeze(-1)).masked_fill(~real[:, None, :], 0.0).float()


def _entropy(probabilities: Tensor, dim: int) -> Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum(dim).float()


def _demand(taps: list[Tap]) -> Demand:
    wanted = Demand()
    for tap in taps:
        wanted |= tap.demand
    return wanted


def _bound(module: nn.Module, kwargs: dict[str, Any]) -> _Binding:
    binding = _BOUND.get(module)
    if binding is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} ran through mechguard's attention outside of its context"
        )
    if kwargs.get("position_bias") is not None or not getattr(module, "is_causal", True):
        raise UnsupportedModelError(
            f"{type(module).__name__} uses a position bias or attends in both directions; "
            "mechguard measures causal attention."
        )
    return binding


def _mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """SDPA's mask, left out where causality and the window say the same without T² entries.

    Padding on the right needs no mask either: it lies in the future of every token.
    """
    square = q_length == kv_length and isinstance(q_offset, int) and q_offset == kv_offset == 0
    if (
        allow_is_causal_skip
        and square
        and _pads_right(attention_mask)
        and _is_window(mask_function, local_size or kv_length, q_length, kwargs.get("batch_size", 1))
    ):
        return None
    mask: Tensor | None = sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **kwargs,
    )
    return mask


def _pads_right(attention_mask: Tensor | None) -> bool:
    """Whether all padding follows the tokens."""
    if attention_mask is None:
        return True
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def _is_window(
    mask_function: Callable[..., Any], window: int, length: int, batch_size: int
) -> bool:
    """Whether a mask function is the plain causal window, tried on a few queries of each row.

    `local_size` is also what chunked attention passes, and documents packed into one row come as a
    mask function too, so the function itself has to be asked.
    """
    if mask_function is causal_mask_function:
        return window >= length
    keys = torch.arange(length)[None]
    rows = torch.arange(batch_size)[:, None]
    zero = torch.zeros((), dtype=torch.long)
    for query in sorted({0, window - 1, window, window + 1, length // 2, length - 1}):
        if query < length:
            seen = mask_function(rows, zero, torch.tensor([[query]]), keys)
            window_of_query = (keys <= query) & (keys > query - window)
            if not bool((seen.expand(batch_size, length) == window_of_query).all()):
                return False
    return True


AttentionInterface.register(_STREAMED, _streamed)
AttentionMaskInterface.register(_STREAMED, _mask)
AttentionInterface.register(_EAGER, _by_eager)
AttentionMaskInterface.register(_EAGER, eager_mask)
