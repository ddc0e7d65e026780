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
from typing import Any, Literal, assert_never
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from interp.attention.flash import causal
from interp.attention.kernels import BLOCK, AttentionInputs, AttentionStatistics, Demand, attend
from interp.attention.masks import streamed_mask
from interp.errors import InputError, UnsupportedModelError
from interp.model.anatomy import Anatomy
from interp.model.modules import attention_module, decoder_layers

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
    implementation = _implementation(attention)
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


def _implementation(attention: AttentionPath) -> str:
    match attention:
        case "auto":
            return _STREAMED
        case "eager":
            return _EAGER
        case _:
            assert_never(attention)


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
    demand = _demand(binding.taps)
    prefill = query.shape[2] == key.shape[2]
    if demand and not prefill:
        raise InputError(
            "attention statistics need a whole forward pass: call the model without a KV cache"
        )
    # A window without a mask is ours to apply; what is neither needs no more than the plain call.
    windowed = prefill and attention_mask is None and binding.window is not None
    inputs = None
    if demand or windowed:
        inputs = _inputs(binding, query, key, value, attention_mask, scaling, softcap, s_aux)
    statistics = None
    if softcap is not None or s_aux is not None:
        own = {"softcap": softcap} if softcap is not None else {"s_aux": s_aux}
        output = _own_eager(
            module, binding, query, key, value, attention_mask, scaling, own | kwargs
        )
        if demand and inputs is not None:
            _, statistics = attend(inputs, demand)
    elif inputs is not None:
        output, statistics = attend(inputs, demand)
    else:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        output = output.transpose(1, 2)
    call = AttentionCall(binding.layer, query, key, value, output, statistics)
    for tap in binding.taps:
        tap.receive(call)
    return call.output.transpose(1, 2).contiguous(), None


def _own_eager(
    module: nn.Module,
    binding: _Binding,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """The model file's eager attention, a block of queries at a time.

    Families with soft-capped scores or learned sinks are not run through SDPA by transformers, so
    this is their plain attention, rounding and all, without its T×T weights.
    """
    own = sys.modules[type(module).__module__].eager_attention_forward
    rows, length = query.shape[2], key.shape[2]
    if mask is None and 1 < rows < length:
        # An empty static cache is longer than the prompt; what lies behind it is not written yet.
        key, value, length = key[:, :, :rows], value[:, :, :rows], rows
    outputs = []
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        if mask is None:
            first = length - rows
            seen = causal(first + start, first + stop, 0, length, binding.window, query.device)
        else:
            seen = mask[:, :, start:stop]
        lowest = torch.finfo(query.dtype).min
        additive = torch.zeros((), dtype=query.dtype, device=query.device)
        block, _ = own(
            module,
            query[:, :, start:stop],
            key,
            value,
            additive.masked_fill(~seen, lowest),
            scaling=scaling,
            **kwargs,
        )
        outputs.append(block)
    return torch.cat(outputs, 1).transpose(1, 2)


def _inputs(
    binding: _Binding,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> AttentionInputs:
    batch, _, length, dim = query.shape
    given = [tap.real for tap in binding.taps if tap.real is not None]
    real = given[0] if given else torch.ones(batch, length, dtype=torch.bool, device=key.device)
    keys = [tap.keys for tap in binding.taps if tap.keys is not None]
    return AttentionInputs(
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


AttentionInterface.register(_STREAMED, _streamed)
AttentionMaskInterface.register(_STREAMED, streamed_mask)
AttentionInterface.register(_EAGER, _by_eager)
AttentionMaskInterface.register(_EAGER, eager_mask)
