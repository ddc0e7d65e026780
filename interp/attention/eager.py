"""Attention statistics of families that bypass the attention interface, from their own weights.

Asked for by name (`attention="eager"`), because the model then holds T×T weights.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from interp.attention.statistics import AttentionCall, Tap, statistics_of_weights
from interp.errors import UnsupportedModelError
from interp.model.loaded import LoadedModel
from interp.model.modules import attention_module


@contextmanager
def observe_weights(checkpoint: LoadedModel, taps: dict[int, Tap]) -> Iterator[None]:
    """Hand each tap the statistics of the weights that its attention module returns.

    The caller passes `output_attentions=True`. The calls carry statistics only: queries, keys and
    values are empty.
    """
    with ExitStack() as stack:
        for layer, tap in taps.items():
            module = attention_module(checkpoint.layers[layer])
            assert module is not None
            handle = module.register_forward_hook(_reader(checkpoint, layer, tap))
            stack.callback(handle.remove)
        yield


def _reader(checkpoint: LoadedModel, layer: int, tap: Tap) -> Any:
    def read(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        weights = _weights(output)
        if weights is None:
            raise UnsupportedModelError(
                f"{checkpoint.anatomy.architecture} returns no attention weights, eager or not, so "
                "its attention cannot be measured."
            )
        assert tap.real is not None
        statistics = statistics_of_weights(weights, tap.real, tap.keys, tap.demand)
        empty = weights.new_zeros(0)
        tap.receive(AttentionCall(layer, empty, empty, empty, empty, statistics))

    return read


def _weights(output: Any) -> Tensor | None:
    """The one square four-dimensional tensor among a module's outputs."""
    for item in output if isinstance(output, tuple) else ():
        if isinstance(item, Tensor) and item.ndim == 4 and item.shape[2] == item.shape[3]:
            return item
    return None
