"""What counts as memory that ran out."""

import pytest
import torch

from interp.errors import is_out_of_memory


def _on_the_cpu() -> None:
    torch.empty(10**15)


def test_memory_that_ran_out_is_known_by_any_name() -> None:
    with pytest.raises(RuntimeError) as refused:
        _on_the_cpu()
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(
        MemoryError()
    )
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
