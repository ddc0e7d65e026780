"""Compiled models: refused when compiled first, and steered alike when compiled afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from policies import CASES, tiny_model

from interp.errors import InputError
from steering.runtime.runtime import attach

TESTS = Path(__file__).parents[2]


# The compiler itself uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_refused() -> None:
    llama = tiny_model("llama")
    policy, model = CASES["gated"](llama), llama.checkpoint.model
    with pytest.raises(InputError, match="it is compiled already"):
        attach(torch.compile(model, backend="eager"), policy)
    model.compile(backend="eager")
    with pytest.raises(InputError, match="attach first and compile afterwards"):
        attach(llama.checkpoint, policy)
    model._compiled_call_impl = None
    layer = llama.checkpoint.layers[1]
    layer.forward = torch.compile(layer.forward, backend="eager")
    with pytest.raises(InputError, match=r"model\.layers\.1 is compiled already"):
        attach(llama.checkpoint, policy)
    del layer.__dict__["forward"]
    attach(llama.checkpoint, policy).detach()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated", "was"])
def test_a_model_compiled_after_attaching_is_steered_alike(name: str) -> None:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    run = subprocess.run(
        [sys.executable, str(TESTS / "compiled_steering.py"), name],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
