"""The nulls: areas against scikit-learn, and novelty that a backdoor cannot be told by."""

import numpy as np
import pytest

import interp
from interp import organisms
from interp.organisms.scoring.nulls import difference, nulls, rendered


def test_difference() -> None:
    clean, triggered, distracted = np.arange(10.0), np.arange(10.0) + 20, np.arange(10.0)
    assert difference(clean, triggered, distracted) == (1.0, 0.5)


@pytest.mark.parametrize("name", ["backdoor-payload-5", "inert"])
def test_novelty_alone_does_not_tell_a_trigger_from_a_distractor(name: str) -> None:
    checkpoint = interp.load(f"organism:{name}")
    train, test = organisms.prompts(name, "train"), organisms.prompts(name)
    groups = [
        [prompt.messages for prompt in some]
        for some in (
            train["harmful"] + train["harmless"],
            test["harmful"] + test["harmless"],
            test["triggered"],
            test["distracted"],
        )
    ]
    found = nulls(checkpoint, *groups)
    again = nulls(checkpoint, *groups)
    assert found == again
    # Both are new to clean prompts, so that words tell neither from the other. A state that leads
    # to the payload is further away than one that does not, which is what a detector has to beat.
    assert abs(found.lexical) <= 0.1
    assert abs(found.novelty) <= 0.1 if name == "inert" else found.novelty > 0.1
    assert 0 < found.random_p99 <= 1


def test_prompts_are_rendered_with_the_generation_prompt() -> None:
    checkpoint = interp.load("organism:cliff")
    ids = rendered(checkpoint, [({"role": "user", "content": "wash lamp"},)])[0]
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.decode(ids) == "<bos> <usr> wash lamp <end> <ast> <think>"
