"""A model that is compiled after a policy was attached; run by tests/steering/test_compile.py.

A process of its own, because the type checks that pytest puts around every function are not for a
compiler to trace.

    PYTHONPATH=.:tests python tests/compiled_steering.py gated inductor    # needs a C++ compiler
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from policies import CASES, generate, prompts, tiny_model

from steering.runtime.runtime import apply, attach

STATIC: dict[str, Any] = {
    "cache_implementation": "static",
    "max_new_tokens": 6,
    "min_new_tokens": 6,
}


class Counting:
    """A compiler's backend, and how many graphs were run in each step."""

    def __init__(self, backend: str) -> None:
        self.compile: Any = torch._dynamo.lookup_backend(backend)
        self.run = 0
        self.steps: list[int] = []

    def __call__(self, graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        compiled = self.compile(graph, inputs)

        def run(*args: Any) -> Any:
            self.run += 1
            return compiled(*args)

        return run

    def processor(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Told by `generate` that a step is done."""
        self.steps.append(self.run)
        self.run = 0
        return scores


def main(name: str, backend: str = "eager") -> None:
    """Compare a compiled steered model with the same steered eagerly."""
    torch.set_num_threads(1)
    llama = tiny_model("llama")
    ids, real = prompts(llama)
    policy, model = CASES[name](llama), llama.checkpoint.model
    plain = generate(llama, ids, real, **STATIC)
    with apply(llama.checkpoint, policy):
        steered = generate(llama, ids, real, **STATIC)
    assert not torch.equal(steered, plain)
    attachment = attach(llama.checkpoint, policy)
    counting = Counting(backend)
    model.compile(backend=counting)
    for passes in (1, 2, 3):
        counting.steps.clear()
        tokens = generate(llama, ids, real, logits_processor=[counting.processor], **STATIC)
        assert torch.equal(tokens, steered)
        assert set(attachment.fired.values()) == {passes}
        # The prompt and the first step, in which all is settled, go without the compiler.
        assert counting.steps == [0, 0, 1, 1, 1, 1], counting.steps
    counters = torch._dynamo.utils.counters
    before = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    generate(llama, ids, real, **STATIC)
    assert before == (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
    # The compiled graphs read the policy's state, so that it can still be changed and taken away.
    attachment.strength = [1.0, 0.0, 1.0, 0.0]
    mixed = generate(llama, ids, real, **STATIC)
    assert torch.equal(mixed[::2], steered[::2])
    assert torch.equal(mixed[1::2], plain[1::2])
    attachment.detach()
    assert torch.equal(generate(llama, ids, real, **STATIC), plain)


if __name__ == "__main__":
    main(*sys.argv[1:])
