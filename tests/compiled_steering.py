"""A model that is compiled after a policy was attached; run by tests/steering/test_compile.py.

A process of its own, because the type checks that pytest puts around every function are not for a
compiler to trace.
"""

import sys
from typing import Any

import torch
from policies import CASES, generate, patient, prompts

from steering.runtime import apply, attach

STATIC: dict[str, Any] = {
    "cache_implementation": "static",
    "max_new_tokens": 6,
    "min_new_tokens": 6,
}


def main(name: str) -> None:
    """Compare a compiled steered model with the same steered eagerly."""
    torch.set_num_threads(1)
    llama = patient("llama")
    ids, real = prompts(llama)
    policy, model = CASES[name](llama), llama.checkpoint.model
    plain = generate(llama, ids, real, **STATIC)
    with apply(llama.checkpoint, policy):
        steered = generate(llama, ids, real, **STATIC)
    assert not torch.equal(steered, plain)
    attachment = attach(llama.checkpoint, policy)
    model.compile(backend="eager")
    for passes in (1, 2, 3):
        assert torch.equal(generate(llama, ids, real, **STATIC), steered)
        assert set(attachment.fired.values()) == {passes}
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
    main(sys.argv[1])
